"""The language model: reads one segment, returns logits and the next state."""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lm2_jax.config import ModelConfig
from lm2_jax.model import kernels, segments
from lm2_jax.model import memory as memories
from lm2_jax.model.block import BLOCK_INPUT, Block
from lm2_jax.model.embedding import lookup, unembed
from lm2_jax.model.linear import Linear, RMSNorm, partitioned, unshard
from lm2_jax.model.state import constrain_state, init_state, reset_rows, window_size
from lm2_jax.partition import constrain
from lm2_jax.types import Output, Params, State


class LanguageModel(nn.Module):
    """A Llama-3 decoder whose first blocks have a memory (LM2, arXiv 2502.06049).

    `apply` is that of flax, compiled once per model and argument shapes:

        model, state = LanguageModel(config), init_state(config, batch_size)
        out = model.apply(variables, tokens_BT, state)
        out = model.apply(variables, next_tokens_BT, out.state, deterministic=False,
                          rngs={"dropout": key})
    """

    config: ModelConfig

    @nn.nowrap
    def apply(self, variables: Params, *args, rngs=None, deterministic: bool = True,
              logits: bool = True, **kwargs) -> Any:
        """Returns `__call__` applied to the variables, compiled.

        Calls with other options of flax's `apply` (`mutable`, `method`, ...) are passed to flax and
        not compiled. The arguments are those of `__call__`.
        """
        if len(args) > 4 or kwargs.keys() - {"tokens_BT", "state", "valid_BT", "reset_B"}:
            kwargs |= {} if len(args) > 4 or "method" in kwargs else dict(
                deterministic=deterministic, logits=logits)
            return super().apply(variables, *args, rngs=rngs, **kwargs)
        return _apply(self, variables, args, kwargs, rngs, deterministic, logits)

    def setup(self):
        c, kind = self.config, memories.kind_of(self.config)
        init = nn.initializers.normal(c.embed_dim**-0.5)
        self.embedding_VD = self.param("embedding", partitioned(init, ("vocab", "embed")),
                                       (c.vocab_size, c.embed_dim), jnp.float32)
        self.memory_tokens = kind.tokens(c) if kind and kind.tokens else None
        self.final_norm = RMSNorm(c.norm_eps, c.dtype)
        if not c.tie_embeddings:
            self.lm_head = Linear("BTD,DV->BTV", (c.embed_dim, c.vocab_size), ("embed", "vocab"),
                                  dtype=c.dtype)

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, state: State, valid_BT: jax.Array | None = None,
                 reset_B: jax.Array | None = None, deterministic: bool = True,
                 logits: bool = True) -> Output:
        """Reads one segment.

        Args:
          tokens_BT: int32, with T from 1 to segment_length.
          state: from `init_state`, or the state that the previous segment returned.
          valid_BT: bool, False for padding, which is neither attended to nor written to the
            memory; None if all tokens are valid.
          reset_B: bool, rows that begin a new sequence with this segment: their state is replaced
            by the initial one. None resets nothing.
          deterministic: False applies dropout, which needs the rng "dropout".
          logits: False returns the final hidden states instead, which take less memory (D instead
            of V numbers per token); `unembed` computes the logits from them.

        Returns:
          Output(logits [B, T, V] float32, state), or Output(None, state, hidden [B, T, D] in the
          compute dtype) if `logits` is False.

        Raises:
          ValueError: if a shape or dtype does not match the model.
        """
        c = self.config
        check_shapes(c, tokens_BT, state, valid_BT, reset_B)
        valid_BT = jnp.ones(tokens_BT.shape, bool) if valid_BT is None else valid_BT
        if reset_B is not None:
            state = reset_rows(c, state, reset_B)
        x_BSD, valid_BS = self.embed(tokens_BT, valid_BT, state.memory)
        x_BSD, state = self._blocks(x_BSD, state, valid_BS, deterministic)
        return self.head(x_BSD, state, valid_BT, logits)

    def embed(self, tokens_BT: jax.Array, valid_BT: jax.Array, memory: Any
              ) -> tuple[jax.Array, jax.Array]:
        """Returns the input of the first block, memory tokens included.

        Args:
          tokens_BT: int32.
          valid_BT: bool, False for padding.
          memory: the memory's state from before the segment.

        Returns:
          (x_BSD in the compute dtype, bool [B, S], False for padding).
        """
        embedding_VD = self._matrix()
        x_BTD = lookup(self.embedding_VD, jax.lax.stop_gradient(embedding_VD), tokens_BT)
        return self.memory_tokens.wrap(x_BTD, valid_BT, memory) if self.memory_tokens else (
            x_BTD, valid_BT)

    def head(self, x_BSD: jax.Array, state: State, valid_BT: jax.Array, logits: bool) -> Output:
        """Returns what the model returns, from the output of the last block.

        Args:
          x_BSD: memory tokens included.
          state: as the blocks and the window leave it.
          valid_BT: bool, False for padding.
          logits: as in `__call__`.
        """
        c = self.config
        x_BTD = x_BSD = self.final_norm(x_BSD)
        if self.memory_tokens:
            x_BTD = self.memory_tokens.unwrap(x_BSD)
            state = State(memory=self.memory_tokens.next_state(x_BSD, state.memory, valid_BT),
                          window=state.window)
        if not logits:
            return Output(logits=None, state=constrain_state(state), hidden=x_BTD)
        if c.tie_embeddings:
            logits_BTV = unembed(x_BTD, self._matrix())
        else:
            logits_BTV = self.lm_head(x_BTD).astype(jnp.float32)
            logits_BTV = constrain(logits_BTV, "act_batch", "act_len", "act_vocab")
        return Output(logits=logits_BTV, state=constrain_state(state))

    def _matrix(self) -> jax.Array:
        """The embedding in the compute dtype, [V, D]."""
        return unshard(self.embedding_VD.astype(self.config.dtype), ("vocab", "embed"))

    def _blocks(self, x_BSD: jax.Array, state: State, valid_BS: jax.Array, deterministic: bool
                ) -> tuple[jax.Array, State]:
        """Applies all blocks: a scan over those with a memory, then one over those without.

        Args:
          x_BSD: residual stream, memory tokens included.
          state: before the segment.
          valid_BS: bool, False for padding.
          deterministic: False applies dropout.

        Returns:
          (x_BSD after the last block, state as the blocks and the window leave it).
        """
        c, window = self.config, state.window
        (P, Q), kv = (segments.memory_blocks(c), c.num_layers), segments.cached(c, window, valid_BS)
        shared = segments.block_inputs(c, window, valid_BS)
        memory, kv_out = state.memory, []
        for name, has_memory, count, start in (("memory_blocks", True, P, 0),
                                               ("blocks", False, Q - P, P)):
            if count:
                stack_kv = jax.tree.map(lambda a, s=start, n=count: a[s:s + n], kv)
                stack = self._scanned(count, deterministic)(c, has_memory, deterministic, name=name)
                x_BSD, (new_memory, new_kv) = stack(x_BSD, memory if has_memory else None,
                                                    stack_kv, *shared)
                memory = new_memory if has_memory else memory
                kv_out.append(new_kv)
        if c.remat != "none":
            x_BSD = checkpoint_name(x_BSD, BLOCK_INPUT)
        if window:
            key, value = jax.tree.map(lambda *parts: jnp.concatenate(parts), *kv_out)
            window = segments.update_window(c, window, key, value, valid_BS)
        return x_BSD, State(memory=memory, window=window)

    def _scanned(self, count: int, deterministic: bool):
        """`Block` scanned over `count` layers, its parameters stacked on a first axis."""
        c = self.config
        size = c.embed_dim * (3 * c.mlp_dim + 2 * (c.num_heads + c.num_kv_heads) * c.head_dim)
        copied = 4 * size if deterministic else 0  # little of the time of a training step
        return nn.scan(Block, variable_axes={"params": 0, "intermediates": 0, "attention": 0},
                       split_rngs={"params": True, "dropout": True}, length=count,
                       unroll=kernels.unroll(count, copied),
                       in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
                       metadata_params={nn.PARTITION_NAME: "layers"})


# Outside of jit, every call would compile flax's scan over the blocks again.
@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _apply(model: LanguageModel, variables: Params, args, kwargs, rngs, deterministic: bool,
           logits: bool) -> Output:
    return cast(Output, nn.Module.apply(model, variables, *args, rngs=rngs, logits=logits,
                                        deterministic=deterministic, **kwargs))


def check_shapes(config: ModelConfig, tokens_BT, state: State, valid_BT, reset_B) -> None:
    """Raises a ValueError if a shape or dtype does not match the model."""
    if not config.vocab_size:
        raise ValueError("model.vocab_size is 0; set it to that of the tokenizer")
    if tokens_BT.ndim != 2 or not 1 <= tokens_BT.shape[1] <= config.segment_length:
        raise ValueError(f"tokens have shape {tokens_BT.shape}; a segment is [B, T] with T from "
                         f"1 to segment_length = {config.segment_length} (a whole sequence: "
                         "apply_segments)")
    B, T = tokens_BT.shape
    expected = jax.tree.map(lambda a: a.shape, jax.eval_shape(
        lambda: init_state(config, B, window_size(state) if isinstance(state, State) else None)))
    given = jax.tree.map(lambda a: a.shape, state)
    if expected != given:
        raise ValueError(f"the state has shapes {given}; this model and {B} rows need {expected} "
                         "(init_state(config, batch_size))")
    for name, array, shape in (("valid_BT", valid_BT, (B, T)), ("reset_B", reset_B, (B,))):
        if array is not None and (array.shape != shape or array.dtype != bool):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; "
                             f"it must be bool{list(shape)}")
