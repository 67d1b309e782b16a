"""The language model: one segment in, logits and the next state out."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from lm2_jax.config import ModelConfig
from lm2_jax.model import attention, kernels, rope
from lm2_jax.model import memory as memories
from lm2_jax.model.block import BLOCK_INPUT, Block
from lm2_jax.model.embedding import lookup, unembed
from lm2_jax.model.linear import Linear, RMSNorm, gathered, partitioned
from lm2_jax.partition import constrain
from lm2_jax.types import Output, Params, State, Window


class LanguageModel(nn.Module):
    """A Llama-3 decoder whose first blocks have a memory (LM2, arXiv 2502.06049).

    `apply` is flax's, compiled once for each model and shapes of its arguments:

        model, state = LanguageModel(config), init_state(config, batch_size)
        out = model.apply(variables, tokens_BT, state)
        out = model.apply(variables, next_tokens_BT, out.state, deterministic=False,
                          rngs={"dropout": key})
    """

    config: ModelConfig

    @nn.nowrap
    def apply(self, variables: Params, *args, rngs=None, deterministic: bool = True,
              logits: bool = True, **kwargs):
        """What `__call__` returns; with options of flax (`mutable`, `method`) as flax does it."""
        if len(args) > 4 or kwargs.keys() - {"tokens_BT", "state", "valid_BT", "reset_B"}:
            kwargs |= {} if len(args) > 4 or "method" in kwargs else dict(
                deterministic=deterministic, logits=logits)
            return super().apply(variables, *args, rngs=rngs, **kwargs)
        return _apply(self, variables, args, kwargs, rngs, deterministic, logits)

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, state: State, valid_BT: jax.Array | None = None,
                 reset_B: jax.Array | None = None, deterministic: bool = True,
                 logits: bool = True) -> Output:
        """Reads one segment.

        Args:
          tokens_BT: int32, T from 1 to segment_length.
          state: from `init_state` or the segment before.
          valid_BT: bool, False for padding, which nothing sees and which writes nothing.
          reset_B: bool, rows that begin a new sequence here: their state is the initial one.
          deterministic: False in training with dropout (needs the rng "dropout").
          logits: False for the hidden states in their place, of which `unembed` makes them: all
            logits of a segment take T * V floats a row.

        Returns:
          Output(logits [B, T, V] float32, state), or Output(None, state, hidden [B, T, D]).
        """
        c = self.config
        check_shapes(c, tokens_BT, state, valid_BT, reset_B)
        B, T = tokens_BT.shape
        valid_BT = jnp.ones((B, T), bool) if valid_BT is None else valid_BT
        if reset_B is not None:
            state = reset_rows(c, state, reset_B)

        init = nn.initializers.normal(c.embed_dim**-0.5)
        params_VD = self.param("embedding", partitioned(init, ("vocab", "embed")),
                               (c.vocab_size, c.embed_dim), jnp.float32)
        embedding_VD = gathered(params_VD.astype(c.dtype), ("vocab", "embed"))
        x_BTD = lookup(params_VD, jax.lax.stop_gradient(embedding_VD), tokens_BT)
        kind = memories.of(c)
        ends = kind and kind.tokens and kind.tokens(c, name="memory_tokens")
        x_BSD, valid_BS, positions = x_BTD, valid_BT, np.arange(T)
        if ends:
            x_BSD, valid_BS = ends.wrap(x_BTD, valid_BT, state.memory)
            positions = ends.positions(T)
        x_BSD, state = self._blocks(x_BSD, state, valid_BS, positions, deterministic)
        x_BTD = x_BSD = RMSNorm(c.norm_eps, c.dtype, name="final_norm")(x_BSD)
        if ends:
            x_BTD = ends.unwrap(x_BSD)
            state = state.replace(memory=ends.next_state(x_BSD, state.memory, valid_BT))
        if not logits:
            return Output(logits=None, state=constrain_state(state), hidden=x_BTD)
        if c.tie_embeddings:
            logits_BTV = unembed(x_BTD, embedding_VD)
        else:
            logits_BTV = Linear("BTD,DV->BTV", (c.embed_dim, c.vocab_size), ("embed", "vocab"),
                                dtype=c.dtype, name="lm_head")(x_BTD).astype(jnp.float32)
            logits_BTV = constrain(logits_BTV, "act_batch", "act_len", "act_vocab")
        return Output(logits=logits_BTV, state=constrain_state(state))

    def _blocks(self, x_BSD, state: State, valid_BS, positions, deterministic: bool):
        """The stack: the blocks with a memory beside them, then those without, each scanned."""
        c = self.config
        kind = memories.of(c)
        P, Q = c.memory.num_layers if kind and kind.block else 0, c.num_layers
        window = state.window
        kv = (window.key_QBWKH, window.value_QBWKH) if window else (
            jnp.zeros((Q, x_BSD.shape[0], 0, c.num_kv_heads, c.head_dim), c.dtype),) * 2
        W = kv[0].shape[2]
        freq = rope.frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        places = np.concatenate([np.arange(W), W + positions])
        shared = attention.visible(window, valid_BS), valid_BS, rope.table(places, freq)
        memory, kv_out = state.memory, []
        for name, remembers, count, start in (("memory_blocks", True, P, 0),
                                              ("blocks", False, Q - P, P)):
            if count:
                own_kv = jax.tree.map(lambda a, s=start, n=count: a[s:s + n], kv)
                stack = self._scanned(count)(c, remembers, deterministic, name=name)
                x_BSD, (after, out) = stack(x_BSD, memory if remembers else None, own_kv, *shared)
                memory = after if remembers else memory
                kv_out.append(out)
        if c.remat != "none":
            x_BSD = checkpoint_name(x_BSD, BLOCK_INPUT)
        if window:
            key, value = jax.tree.map(lambda *parts: jnp.concatenate(parts), *kv_out)
            window = attention.slide(window, key, value, valid_BS)
        return x_BSD, State(memory=memory, window=window)

    def _scanned(self, count: int):
        return nn.scan(Block, variable_axes={"params": 0, "intermediates": 0},
                       split_rngs={"params": True, "dropout": True}, length=count,
                       unroll=kernels.unroll(count),
                       in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
                       metadata_params={nn.PARTITION_NAME: "layers"})


# Without jit, flax's scan over the blocks would be compiled by every call.
@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _apply(model: LanguageModel, variables: Params, args, kwargs, rngs, deterministic: bool,
           logits: bool) -> Output:
    return nn.Module.apply(model, variables, *args, rngs=rngs, deterministic=deterministic,
                           logits=logits, **kwargs)


def init_state(config: ModelConfig, batch_size: int, window: int | None = None) -> State:
    """The state before the first token.

    Args:
      window: places for the keys and values of earlier tokens, where no sequence has more than so
        many; None = attention_window. Fewer places cost less and change nothing.
    """
    c, B = config, batch_size
    kind, kept = memories.of(c), None
    W = c.attention_window if window is None else min(window, c.attention_window)
    if c.attention_window:
        # Two arrays, not one twice: a buffer can be donated only once.
        key, value = (jnp.zeros((c.num_layers, B, W, c.num_kv_heads, c.head_dim), c.dtype)
                      for _ in range(2))
        kept = Window(key_QBWKH=key, value_QBWKH=value, valid_BW=jnp.zeros((B, W), bool))
    return constrain_state(State(memory=kind and kind.init_state(c, B), window=kept))


def constrain_state(state: State) -> State:
    """The state with its rows over the mesh's batch axes."""
    return with_axes(constrain, state)


def with_axes(apply: Callable, state: State) -> State:
    """`apply(array, *names)` of every array in the state, with its axes' logical names."""
    memory = jax.tree.map(
        lambda a: apply(a, "layers", "act_batch", *(None,) * (a.ndim - 2)), state.memory)
    window = state.window
    if window is not None:
        names = ("layers", "act_batch", "act_len", "act_kv_heads", "act_head_dim")
        window = Window(key_QBWKH=apply(window.key_QBWKH, *names),
                        value_QBWKH=apply(window.value_QBWKH, *names),
                        valid_BW=apply(window.valid_BW, "act_batch", "act_len"))
    return State(memory=memory, window=window)


def reset_rows(config: ModelConfig, state: State, reset_B: jax.Array) -> State:
    """The state with the rows that `reset_B` names put back to the initial one."""
    return select_rows(reset_B, init_state(config, reset_B.shape[0], places(state)), state)


def places(state: State) -> int | None:
    """How many earlier tokens the state has places for; None without a window."""
    return state.window and state.window.valid_BW.shape[1]


def select_rows(choose_B: jax.Array, chosen: State, other: State) -> State:
    """The rows of `chosen` where `choose_B` is True, else those of `other`."""
    def one(path, a, b):
        axis = 0 if path[-1] == jax.tree_util.GetAttrKey("valid_BW") else 1
        shape = [1] * a.ndim
        shape[axis] = choose_B.shape[0]
        return jnp.where(choose_B.reshape(shape), a, b)

    return jax.tree_util.tree_map_with_path(one, chosen, other)


def check_shapes(config: ModelConfig, tokens_BT, state: State, valid_BT, reset_B) -> None:
    """Raises a ValueError in one line for input that does not fit the model."""
    if not config.vocab_size:
        raise ValueError("model.vocab_size is 0; set it to the tokenizer's")
    if tokens_BT.ndim != 2 or not 1 <= tokens_BT.shape[1] <= config.segment_length:
        raise ValueError(f"tokens have shape {tokens_BT.shape}; a segment is [B, T] with T from "
                         f"1 to segment_length = {config.segment_length} (a whole sequence: "
                         "apply_segments)")
    B, T = tokens_BT.shape
    wanted = jax.tree.map(lambda a: a.shape, jax.eval_shape(
        lambda: init_state(config, B, places(state) if isinstance(state, State) else None)))
    given = jax.tree.map(lambda a: a.shape, state)
    if wanted != given:
        raise ValueError(f"the state has shapes {given}; this model and {B} rows need {wanted} "
                         "(init_state(config, batch_size))")
    for name, array, shape in (("valid_BT", valid_BT, (B, T)), ("reset_B", reset_B, (B,))):
        if array is not None and (array.shape != shape or array.dtype != bool):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; "
                             f"it must be bool{list(shape)}")
