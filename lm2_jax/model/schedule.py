"""Schedules: how the segments of a sequence go through the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm2_jax.model.lm import LanguageModel, constrain_state
from lm2_jax.types import Array, Output, Params, State

SCHEDULES = ("sequential",)


def scan_segments(step: Callable, state: State, xs, *, bptt_segments: int = 0,
                  remat: bool = True, unroll: int = 1):
    """Runs `step(state, x) -> (state, y)` over the leading axis of xs, the segments.

    The gradient goes back through groups of `bptt_segments` segments (0 = through all): the
    state is cut where a group begins. With `remat` only the states between segments are kept
    for the backward pass, and each segment is computed again. `unroll` segments make one step
    of the loop: all of them (if few) is fastest on a CPU.

    Returns:
      (state, ys): the last state, and the ys stacked.
    """
    def body(state, indexed):
        index, x = indexed
        if bptt_segments:
            begins = index % bptt_segments == 0
            state = jax.tree.map(
                lambda a: jnp.where(begins, jax.lax.stop_gradient(a), a), state)
        state, y = step(state, x)
        return constrain_state(state), y

    num_segments = jax.tree.leaves(xs)[0].shape[0]
    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    state, ys = jax.lax.scan(body, state, (jnp.arange(num_segments), xs),
                             unroll=min(unroll, num_segments))
    return constrain_state(state), ys


def split_segments(x_BL: Array, segment_length: int, fill=0) -> Array:
    """[B, L] as [S, B, T], the last segment filled up."""
    B, L = x_BL.shape
    S = -(-L // segment_length)
    x_BL = jnp.pad(x_BL, ((0, 0), (0, S * segment_length - L)), constant_values=fill)
    return x_BL.reshape(B, S, segment_length).swapaxes(0, 1)


def apply_segments(model: LanguageModel, variables: Params, tokens_BL: Array, state: State,
                   valid_BL: Array | None = None, reset_BS: Array | None = None,
                   schedule: str = "sequential", bptt_segments: int = 0) -> Output:
    """Reads a sequence of any length, segment by segment.

    Args:
      tokens_BL: int32; a last segment that is not full is padded, which changes nothing.
      state: from `init_state`, or where an earlier call left off (at a segment's border).
      valid_BL: bool, False for padding.
      reset_BS: bool, rows that begin a new sequence at a segment; S = ceil(L / segment_length).
      schedule: "sequential".
      bptt_segments: segments that a gradient goes back through; 0 = all.

    Returns:
      Output(logits [B, L, V] float32, the state after the last token).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}")
    B, L = tokens_BL.shape
    T = model.config.segment_length
    valid_BL = jnp.ones((B, L), bool) if valid_BL is None else valid_BL
    segments = (split_segments(tokens_BL, T), split_segments(valid_BL, T, fill=False))
    S = segments[0].shape[0]
    if reset_BS is None:
        reset_BS = jnp.zeros((B, S), bool)
    if valid_BL.shape != (B, L) or reset_BS.shape != (B, S):
        raise ValueError(f"valid_BL has shape {valid_BL.shape} and reset_BS {reset_BS.shape}; "
                         f"they must be {(B, L)} and {(B, S)}")

    def step(state, x):
        out = model.apply(variables, x[0], state, *x[1:])
        return out.state, out.logits

    state, logits_SBTV = scan_segments(step, state, (*segments, reset_BS.T),
                                       bptt_segments=bptt_segments)
    logits_BLV = logits_SBTV.swapaxes(0, 1).reshape(B, S * T, -1)[:, :L]
    return Output(logits=logits_BLV, state=state)
