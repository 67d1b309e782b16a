"""The interface of a memory: hooks inside a block, and memory tokens around a segment.

A memory has a state, a pytree of arrays that the model takes as an argument and returns with every
segment. It is written as a `BlockMemory`, which has a state for each block, as a `MemoryTokens`,
or as both, together with two functions:

    init_state(config, batch_size) -> state       [P, B, ...] for P blocks, [1, B, ...] for tokens
    flops(config) -> forward FLOPs per token and block

All four are registered as a `Kind` in `lm2_jax/model/memory/__init__.py`. Shapes: B rows, T tokens
of the segment, M memory tokens (or slots), S tokens in a block (T, plus M for each set of memory
tokens), D embed_dim. Activations have the compute dtype `config.dtype`. Parameters are float32.
Keep the state float32 too, and sum into it in float32: it is updated once per segment or token,
thousands of times in a long sequence.

The model guarantees the order of the calls; a memory must satisfy these rules, each of which is
tested in `tests/test_model_rules.py` or the file named:

1. Causality. The output for token t depends on tokens up to t of this segment and on the state
   from before the segment. `pre_block` and `read` therefore treat each token separately, and what
   `mix` adds to token t combines tokens up to t only. The state that `mix`, `write`, `post_block`
   and `next_state` return may combine all tokens, because only the next segment sees it.
2. Explicit state. Nothing is carried in flax variables, attributes or globals: reading a sequence
   in one call or segment by segment gives the same logits and the same state.
3. Reset by row. The axes of every leaf begin with (blocks, rows), so that the model can reset
   single rows to `init_state`; no row depends on another one.
4. Padding. A token that is not valid (`valid_BS` False) changes neither the state nor the output
   for another token, whatever its content and wherever it stands. In a row without a valid token
   in the segment, the state stays bit for bit the same. Memory tokens are always valid, so this
   must be decided by the tokens of the segment.
5. Off means Llama. With `memory.num_layers` = 0 no parameter and no operation of a memory is left
   (`tests/test_llama.py`).
6. Gradients. They flow through the state from segment to segment. Where they are cut is decided by
   `train.bptt_segments` alone: a memory that stops a gradient says so in its docstring
   (`tests/test_model_gradient.py`).
7. Partial placement. A `BlockMemory` works in the first P blocks for every P up to the number of
   layers (`tests/test_model_reference.py`). A memory that needs all blocks is checked in
   `lm2_jax/config/model.py`.
8. Token by token. After `prepare`, `step` gives for each token what `mix` gives where the segment
   is read as a whole (`tests/test_decoding.py`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import partitioned


class BlockMemory(nn.Module):
    """The memory of one block. `Block` calls the hooks in this order:

        x            <- pre_block(x, state)
        added, state <- mix(norm(x), state, valid)
        x            <- x + attention(norm(x)) + added
        state        <- write(x, state, valid)
        x            <- x + mlp(norm(x))
        state        <- post_block(x, state, valid)

    Where text is generated, a segment is read token by token (`lm2_jax/model/running.py`). Then
    `prepare(state)` is called once per segment, `step` takes the place of `mix`, and `write` and
    `post_block` are left out; the whole segment is read again when it is full.

    A memory overrides the hooks that it needs and creates its parameters in `setup`. By default
    `mix` adds `read(norm(x), prepare(state))` and leaves the state as it is, `step` adds `read` of
    what was prepared, `prepare` returns the state, and the other hooks do nothing.
    So a memory that is updated once per segment overrides `read` and `write`, and a layer that is
    recurrent over tokens, which reads and updates in one computation, overrides `mix` and makes
    `step` the same function. `state` is this block's slice of the state, a pytree of arrays
    [B, ...], and a new one must have the same shapes and dtypes. `pre_block`, `mix` and `prepare`
    always get the state from before the segment.

    Attributes:
      config: of the model.
    """

    config: ModelConfig

    def pre_block(self, x_BSD: jax.Array, state: Any) -> jax.Array:
        """Returns the input of the block, [B, S, D] in the compute dtype.

        Args:
          x_BSD: residual stream before the block.
          state: from before the segment; token by token, what `step` gets.
        """
        return x_BSD

    def prepare(self, state: Any) -> Any:
        """Returns what `read` takes: the state, or all that depends on it alone, computed.

        It is a pytree of arrays [B, ...], like the state.
        """
        return state

    def read(self, a_BSD: jax.Array, prepared: Any) -> jax.Array | float:
        """Returns what is added to the output of attention, [B, S, D] in the compute dtype.

        Args:
          a_BSD: normalised input, the same that attention gets.
          prepared: as `prepare` returned it for the state from before the segment.
        """
        return 0.0

    @nn.nowrap  # so that traces show `read` alone
    def mix(self, a_BSD: jax.Array, state: Any, valid_BS: jax.Array
            ) -> tuple[jax.Array | float, Any]:
        """Returns what is added to the output of attention, and the state.

        Args:
          a_BSD: normalised input, the same that attention gets.
          state: from before the segment.
          valid_BS: bool, False for padding.

        Returns:
          (as `read` returns it, what `write` gets: the state, or a pytree with what `write` would
          compute again).
        """
        return self.read(a_BSD, self.prepare(state)), state

    @nn.nowrap
    def step(self, a_BSD: jax.Array, prepared: Any, valid_BS: jax.Array
             ) -> tuple[jax.Array | float, Any]:
        """Returns what `mix` adds for the next tokens of a segment, and what `step` gets then.

        Args:
          a_BSD: normalised input of the next tokens of the segment, one or several.
          prepared: as `prepare` returned it before the segment's first token, else as `step` did.
          valid_BS: bool, False for padding.
        """
        return self.read(a_BSD, prepared), prepared

    def write(self, x_BSD: jax.Array, state: Any, valid_BS: jax.Array) -> Any:
        """Returns the state after attention.

        Args:
          x_BSD: residual stream after attention and what `mix` returned have been added.
          state: as `mix` returned it; by default that from before the segment.
          valid_BS: bool, False for padding.
        """
        return state

    def post_block(self, x_BSD: jax.Array, state: Any, valid_BS: jax.Array) -> Any:
        """Returns the state after the block, with which the next segment is read.

        Args:
          x_BSD: residual stream after the block.
          state: as `write` returned it.
          valid_BS: bool, False for padding.
        """
        return state


class MemoryTokens(nn.Module):
    """Adds M = `num_slots` learnt vectors to a segment as tokens: before it, after it, or both.

    They go through all blocks like tokens of the segment, under the same causal mask: every token
    attends to those before the segment, and those after it attend to the whole segment.
    `LanguageModel` calls `wrap` and `positions`, then the blocks and the final norm, then `unwrap`
    and `next_state`. `state` is the whole state, a pytree of arrays [1, B, ...], or [P, B, ...] if
    the kind has a `BlockMemory` too.

    Attributes:
      config: of the model.
      before: whether memory tokens precede the segment; a constant of the class.
      after: whether memory tokens follow the segment; a constant of the class.
    """

    config: ModelConfig
    before = False
    after = True

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.embed_dim**-0.5)
        self.embedding_MD = self.param("embedding", partitioned(init, ("memory_slots", "embed")),
                                       (c.memory.num_slots, c.embed_dim), jnp.float32)

    def vectors(self, state: Any, batch_size: int) -> jax.Array:
        """Returns the embeddings of the memory tokens, [B, M, D] float32."""
        return jnp.broadcast_to(self.embedding_MD[None], (batch_size, *self.embedding_MD.shape))

    def wrap(self, x_BTD: jax.Array, valid_BT: jax.Array, state: Any
             ) -> tuple[jax.Array, jax.Array]:
        """Adds the memory tokens to a segment.

        Args:
          x_BTD: embeddings of the segment's tokens.
          valid_BT: bool, False for padding.
          state: from before the segment.

        Returns:
          (embeddings [B, S, D] in the dtype of x, bool [B, S], True for valid tokens and all
          memory tokens).
        """
        tokens_BMD = self.vectors(state, x_BTD.shape[0]).astype(x_BTD.dtype)
        valid_BM = jnp.ones(tokens_BMD.shape[:2], bool)
        return (jnp.concatenate(self._surround(x_BTD, tokens_BMD, tokens_BMD), axis=1),
                jnp.concatenate(self._surround(valid_BT, valid_BM, valid_BM), axis=1))

    def positions(self, num_tokens: int) -> np.ndarray:
        """Returns the positions of a segment of `num_tokens` with its memory tokens, int [S].

        Position 0 is that of the segment's first token. Memory tokens before it precede the
        attention window too; those after it have the positions that follow a full segment, so that
        a short segment gives the same results as a padded one.
        """
        c = self.config
        tokens = np.arange(c.memory.num_slots)
        first = -c.memory.num_slots - c.attention_window
        return np.concatenate(self._surround(np.arange(num_tokens), tokens + first,
                                             tokens + c.segment_length))

    def of_segment(self, num_tokens: int) -> np.ndarray:
        """Returns which of a segment and its memory tokens belong to the segment, bool [S]."""
        no = np.zeros(self.config.memory.num_slots, bool)
        return np.concatenate(self._surround(np.ones(num_tokens, bool), no, no))

    def unwrap(self, x_BSD: jax.Array) -> jax.Array:
        """Removes the memory tokens: returns the tokens of the segment, [B, T, D]."""
        M = self.config.memory.num_slots
        return x_BSD[:, M if self.before else 0:x_BSD.shape[1] - (M if self.after else 0)]

    def next_state(self, hidden_BSD: jax.Array, state: Any, valid_BT: jax.Array) -> Any:
        """Returns the state with which the next segment is read.

        Args:
          hidden_BSD: output of the final norm, memory tokens included.
          state: as the blocks returned it.
          valid_BT: bool, the valid tokens of the segment, without memory tokens.
        """
        return state

    def _surround(self, segment, before, after) -> list:
        return [before] * self.before + [segment] + [after] * self.after
