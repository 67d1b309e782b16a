"""The state that a model carries from segment to segment: its start, its rows and its sharding."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model import memory as memories
from lm2_jax.partition import constrain
from lm2_jax.types import Running, State, Window

Rows = TypeVar("Rows", State, Running)


def init_state(config: ModelConfig, batch_size: int, window: int | None = None) -> State:
    """Returns the state before the first token.

    Args:
      config: of the model.
      batch_size: number of rows.
      window: number of earlier tokens whose keys and values the state can hold, at most
        `attention_window`; None = `attention_window`. A smaller window saves memory, and gives the
        same results where no more than that many tokens precede any segment.
    """
    c, B = config, batch_size
    kind, kv_window = memories.kind_of(c), None
    W = c.attention_window if window is None else min(window, c.attention_window)
    if c.attention_window:
        # Keys and values have separate buffers: a buffer can be donated only once.
        key, value = (jnp.zeros((c.num_layers, B, W, c.num_kv_heads, c.head_dim), c.dtype)
                      for _ in range(2))
        kv_window = Window(key_QBWKH=key, value_QBWKH=value, valid_BW=jnp.zeros((B, W), bool))
    memory = kind.init_state(c, B) if kind else None
    return constrain_state(State(memory=memory, window=kv_window))


def constrain_state(state: State) -> State:
    """Constrains the state to be split over its rows, as the batch is, and over channels or heads.
    """
    return with_axes(constrain, state)


def with_axes(apply: Callable, state: State) -> State:
    """Returns the state with each array replaced by `apply(array, *logical_axis_names)`.

    An array [P, B, X, D] of a memory, as a bank is, is split along D.
    """
    def named(a):
        last = (None, "act_memory") if a.ndim == 4 else (None,) * (a.ndim - 2)
        return apply(a, "layers", "act_batch", *last)

    memory = jax.tree.map(named, state.memory)
    window = state.window
    if window is not None:
        names = ("layers", "act_batch", "act_len", "act_kv_heads", "act_head_dim")
        window = Window(key_QBWKH=apply(window.key_QBWKH, *names),
                        value_QBWKH=apply(window.value_QBWKH, *names),
                        valid_BW=apply(window.valid_BW, "act_batch", "act_len"))
    return State(memory=memory, window=window)


def reset_rows(config: ModelConfig, state: State, reset_B: jax.Array) -> State:
    """Returns the state with the initial state in the rows where `reset_B`, bool, is True."""
    return select_rows(reset_B, init_state(config, reset_B.shape[0], window_size(state)), state)


def reset_memory(config: ModelConfig, state: State) -> State:
    """Returns the state with the initial memory in all rows, and the window as it is."""
    rows = jax.tree.leaves(state)[0].shape[1]
    return State(memory=init_state(config, rows, 0).memory, window=state.window)


def window_size(state: State) -> int | None:
    """Returns the number of tokens W that the state's window can hold; None without a window."""
    return None if state.window is None else state.window.valid_BW.shape[1]


def select_rows(choose_B: jax.Array, chosen: Rows, other: Rows) -> Rows:
    """Returns the rows of `chosen` where `choose_B`, bool, is True, else those of `other`."""
    def select(path, a, b):
        shape = [1] * a.ndim
        shape[_row_axis(path)] = choose_B.shape[0]
        return jnp.where(choose_B.reshape(shape), a, b)

    return jax.tree_util.tree_map_with_path(select, chosen, other)


def take_rows(state: Rows, rows_B: jax.Array) -> Rows:
    """Returns the state of the rows with these indices, int32; a row may be taken repeatedly."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a: jnp.take(a, rows_B, axis=_row_axis(path)), state)


def put_rows(state: Rows, rows_B: jax.Array, part: Rows) -> Rows:
    """Returns the state with the rows of `part` in place of those with these indices, int32."""
    def put(path, a, b):
        return a.at[rows_B].set(b) if _row_axis(path) == 0 else a.at[:, rows_B].set(b)

    return jax.tree_util.tree_map_with_path(put, state, part)


def _row_axis(path) -> int:
    """Returns which axis of a state's array is that of the rows."""
    return 0 if getattr(path[-1], "name", "") in ("valid_BW", "valid_BC", "length_B") else 1


def resize_window(state: State, size: int) -> State:
    """Returns the state with a window of `size` tokens, no smaller than it is, W."""
    assert state.window is not None
    more = size - state.window.valid_BW.shape[1]
    window = state.window
    key, value = (jnp.pad(a, ((0, 0), (0, 0), (more, 0), (0, 0), (0, 0)))
                  for a in (window.key_QBWKH, window.value_QBWKH))
    window = Window(key_QBWKH=key, value_QBWKH=value,
                    valid_BW=jnp.pad(window.valid_BW, ((0, 0), (more, 0))))
    return constrain_state(State(memory=state.memory, window=window))
