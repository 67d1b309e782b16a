"""A segment that is read token by token, with the keys and values of its tokens in a cache.

`begin` starts the segment after a state, and `extend` reads one or more of its tokens. The logits
are those of `LanguageModel`, which reads the segment as a whole. The state after the segment is
left to `LanguageModel` too: once the segment is full, it reads all of it from the state before.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import ModelConfig
from lm2_jax.model import memory as memories
from lm2_jax.model import rope
from lm2_jax.model.attention import causal_mask
from lm2_jax.model.block import Block
from lm2_jax.model.linear import RMSNorm, unshard
from lm2_jax.model.state import reset_rows, window_size, with_axes
from lm2_jax.partition import constrain
from lm2_jax.types import Params, Running, State


def begin(config: ModelConfig, variables: Params, state: State, batch_size: int, capacity: int,
          reset_B: jax.Array | None = None) -> Running:
    """Returns the segment that follows a state, before its first token.

    Args:
      state: from before the segment.
      batch_size: number of rows of the state.
      capacity: the most tokens of the segment that the cache has to hold.
      reset_B: bool, rows that begin a new sequence with this segment; None resets nothing.
    """
    c, B, params = config, batch_size, variables["params"]
    kind: Any = memories.kind_of(c)
    if reset_B is not None:
        state = reset_rows(c, state, reset_B)
    M = c.memory.num_slots if kind and kind.tokens and kind.tokens.before else 0
    W = window_size(state) or 0
    C = M + W + capacity
    # Keys and values have separate buffers: a buffer can be donated only once.
    key_QBKCH, value_QBKCH = (jnp.zeros((c.num_layers, B, c.num_kv_heads, C, c.head_dim), c.dtype)
                              for _ in range(2))
    valid_BC = jnp.zeros((B, C), bool)
    if state.window:
        rotate = functools.partial(rope.rotate, table_2TH=_table(c, np.arange(-W, 0)))
        keys_QBWKH = jax.vmap(rotate)(state.window.key_QBWKH)
        key_QBKCH = key_QBKCH.at[:, :, :, M:M + W].set(keys_QBWKH.swapaxes(2, 3))
        value_QBKCH = value_QBKCH.at[:, :, :, M:M + W].set(
            state.window.value_QBWKH.swapaxes(2, 3))
        valid_BC = valid_BC.at[:, M:M + W].set(state.window.valid_BW)
    memory = None
    if kind and kind.block:
        block = kind.block(c)
        memory = jax.lax.map(lambda x: block.apply({"params": x[0]}, x[1], method="prepare"),
                             (params["memory_blocks"]["memory"], state.memory))
    running = Running(key_QBKCH, value_QBKCH, valid_BC, memory, jnp.zeros(B, jnp.int32), M + W)
    if M:
        tokens = kind.tokens(c).bind({"params": params["memory_tokens"]})
        x_BMD = tokens.vectors(state.memory, B).astype(c.dtype)
        rope_2MH = _table(c, tokens.positions(0)[:M])
        rope_2BMH = jnp.broadcast_to(rope_2MH[:, None], (2, B, *rope_2MH.shape[1:]))
        _, running = _blocks(c, params, running, x_BMD, jnp.ones((B, M), bool), rope_2BMH,
                             jnp.zeros(B, jnp.int32))
    return constrain_running(running)


def extend(config: ModelConfig, variables: Params, running: Running, tokens_BT: jax.Array,
           valid_BT: jax.Array) -> tuple[jax.Array, Running]:
    """Reads the next tokens of the segment.

    Args:
      tokens_BT: int32. `running.length_B` + T is at most the capacity of the cache.
      valid_BT: bool, False for padding, which follows the other tokens.

    Returns:
      (hidden [B, T, D] in the compute dtype, of which `unembed` makes the logits; the segment).
    """
    c, params = config, variables["params"]
    embedding_VD = unshard(params["embedding"].astype(c.dtype), ("vocab", "embed"))
    positions_BT = running.length_B[:, None] + jnp.arange(tokens_BT.shape[1])[None]
    rope_2BTH = jnp.take(_table(c, np.arange(c.segment_length)), positions_BT, axis=1, mode="clip")
    x_BTD, running = _blocks(c, params, running, embedding_VD[tokens_BT], valid_BT, rope_2BTH,
                             running.before + running.length_B)
    x_BTD = cast(jax.Array, RMSNorm(c.norm_eps, c.dtype).apply(
        {"params": params["final_norm"]}, x_BTD))
    length_B = running.length_B + jnp.sum(valid_BT, axis=1, dtype=jnp.int32)
    return x_BTD, constrain_running(dataclasses.replace(running, length_B=length_B))


def _blocks(c: ModelConfig, params: Params, running: Running, x_BTD: jax.Array,
            valid_BT: jax.Array, rope_2BTH: jax.Array, place_B: jax.Array
            ) -> tuple[jax.Array, Running]:
    """Applies all blocks to the next tokens, whose first place in the cache is `place_B`.

    On every backend a loop over the blocks is best: XLA then reads each block's parameters and
    cache where they are, and would copy those of an unrolled loop first.
    """
    T, P = x_BTD.shape[1], c.memory.num_layers if running.memory is not None else 0
    of_tokens_BTT = causal_mask(None, valid_BT).dense(T, T)
    assert of_tokens_BTT is not None  # it is causal
    mask_BTS = jnp.concatenate([jnp.repeat(running.valid_BC[:, None], T, axis=1), of_tokens_BTT],
                               axis=2)
    memory, new = running.memory, []
    for name, layers in (("memory_blocks", range(P)), ("blocks", range(P, c.num_layers))):
        if name not in params:
            continue
        block = Block(c, has_memory=name == "memory_blocks", running=True)

        def layer(x_BTD, xs, block=block):
            own, memory, i = xs
            kv = running.key_QBKCH[i], running.value_QBKCH[i]
            return block.apply({"params": own}, x_BTD, memory, kv, mask_BTS, valid_BT, rope_2BTH)

        xs = params[name], memory if block.has_memory else None, jnp.array(layers)
        x_BTD, (changed, kv) = jax.lax.scan(layer, x_BTD, xs)
        memory = changed if block.has_memory else memory
        new.append(kv)
    key_QBTKH, value_QBTKH = jax.tree.map(lambda *parts: jnp.concatenate(parts), *new)
    row_B1 = jnp.arange(len(x_BTD))[:, None]
    place_BT = place_B[:, None] + jnp.arange(T)[None]

    def put(cache_QBKCH, new_QBTKH):
        # The indexed axes come first.
        return cache_QBKCH.at[:, row_B1, :, place_BT].set(jnp.moveaxis(new_QBTKH, 0, 2),
                                                          mode="drop")

    return x_BTD, dataclasses.replace(
        running, key_QBKCH=put(running.key_QBKCH, key_QBTKH),
        value_QBKCH=put(running.value_QBKCH, value_QBTKH),
        valid_BC=running.valid_BC.at[row_B1, place_BT].set(valid_BT, mode="drop"), memory=memory)


def _table(c: ModelConfig, positions: np.ndarray) -> jax.Array:
    return rope.table(positions, rope.frequencies(c.head_dim, c.rope_theta, c.rope_scaling))


def constrain_running(running: Running) -> Running:
    """Constrains the segment to be split over its rows and heads, as the batch is."""
    return running_with_axes(constrain, running)


def running_with_axes(apply: Callable, running: Running) -> Running:
    """Returns the segment with each array replaced by `apply(array, *logical_axis_names)`."""
    names = ("layers", "act_batch", "act_kv_heads", "act_len", "act_head_dim")
    return dataclasses.replace(
        running, key_QBKCH=apply(running.key_QBKCH, *names),
        value_QBKCH=apply(running.value_QBKCH, *names),
        valid_BC=apply(running.valid_BC, "act_batch", "act_len"),
        memory=with_axes(apply, State(memory=running.memory, window=None)).memory,
        length_B=apply(running.length_B, "act_batch"))
