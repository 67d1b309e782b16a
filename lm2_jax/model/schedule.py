"""Schedules: how the segments of a sequence are run through the model."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm2_jax.model.block import BLOCK_INPUT
from lm2_jax.model.lm import LanguageModel, constrain_state
from lm2_jax.types import Array, Output, Params, State

SCHEDULES = ("sequential",)


def scan_segments(step: Callable, state: State, xs, *, bptt_segments: int = 0,
                  remat: bool = True, unroll: int = 1):
    """Scans `step(state, x) -> (state, y)` over segments, the leading axis of xs.

    Args:
      step: reads one segment.
      state: before the first segment.
      xs: tree of arrays [S, ...].
      bptt_segments: number of segments per group of truncated backpropagation through time. The
        state gets a `stop_gradient` at the start of each group; 0 backpropagates through all.
      remat: whether the backward pass recomputes each segment. It starts from the state before the
        segment and, if the model rematerialises blocks (`model.remat`), the saved block inputs.
      unroll: number of segments per iteration of the compiled loop.

    Returns:
      (state after the last segment, ys stacked along a leading axis).
    """
    def body(state, indexed):
        index, x = indexed
        if bptt_segments:
            starts_group = index % bptt_segments == 0
            state = jax.tree.map(
                lambda a: jnp.where(starts_group, jax.lax.stop_gradient(a), a), state)
        state, y = step(state, x)
        return constrain_state(state), y

    num_segments = jax.tree.leaves(xs)[0].shape[0]
    if remat:
        body = jax.checkpoint(body, prevent_cse=False,
                              policy=jax.checkpoint_policies.save_only_these_names(BLOCK_INPUT))
    state, ys = jax.lax.scan(body, state, (jnp.arange(num_segments), xs),
                             unroll=min(unroll, num_segments))
    return constrain_state(state), ys


def split_segments(x_BL: Array, segment_length: int, fill=0) -> Array:
    """Reshapes [B, L] to [S, B, T], padding the last segment with `fill`."""
    B, L = x_BL.shape
    S = -(-L // segment_length)
    x_BL = jnp.pad(x_BL, ((0, 0), (0, S * segment_length - L)), constant_values=fill)
    return x_BL.reshape(B, S, segment_length).swapaxes(0, 1)


def apply_segments(model: LanguageModel, variables: Params, tokens_BL: Array, state: State,
                   valid_BL: Array | None = None, reset_BS: Array | None = None,
                   schedule: str = "sequential", bptt_segments: int = 0, *,
                   deterministic: bool = True, logits: bool = True,
                   rngs: dict[str, Array] | None = None) -> Output:
    """Reads a sequence of any length, segment by segment.

    It is compiled once per model and argument shapes, and can be called inside `jax.jit`,
    `jax.grad` and `jax.vmap`:

        variables, state = init(config, jax.random.key(0)), init_state(config, len(tokens_BL))
        out = apply_segments(LanguageModel(config), variables, tokens_BL, state)

    Args:
      tokens_BL: int32. A partial last segment is padded, which does not change the results.
      state: from `init_state`, or returned by an earlier call that read whole segments.
      valid_BL: bool, False for padding; None if all tokens are valid.
      reset_BS: bool, True where a row begins a new sequence with a segment, so that its state is
        reset to the initial one; S = ceil(L / segment_length). None resets nothing.
      schedule: "sequential".
      bptt_segments: number of segments per group of truncated backpropagation through time;
        0 = all.
      deterministic: False applies dropout, which needs `rngs`.
      logits: False returns the final hidden states, from which `unembed` computes the logits.
      rngs: {"dropout": key}; the index of the segment is folded into the key.

    Returns:
      Output(logits [B, L, V] float32, state), or Output(None, state, hidden [B, L, D]) if
      `logits` is False.

    Raises:
      ValueError: if a shape does not match the others or the model.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}")
    B, L = tokens_BL.shape
    S = -(-L // model.config.segment_length)
    valid_BL = jnp.ones((B, L), bool) if valid_BL is None else valid_BL
    reset_BS = jnp.zeros((B, S), bool) if reset_BS is None else reset_BS
    if valid_BL.shape != (B, L) or reset_BS.shape != (B, S):
        raise ValueError(f"valid_BL has shape {valid_BL.shape} and reset_BS {reset_BS.shape}; "
                         f"they must be {(B, L)} and {(B, S)}")
    return _apply_segments(model, bptt_segments, deterministic, logits, variables, tokens_BL,
                           state, valid_BL, reset_BS, rngs or {})


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _apply_segments(model: LanguageModel, bptt_segments: int, deterministic: bool, logits: bool,
                    variables: Params, tokens_BL: Array, state: State, valid_BL: Array,
                    reset_BS: Array, rngs: dict[str, Array]) -> Output:
    (B, L), T = tokens_BL.shape, model.config.segment_length

    def step(state, x):
        index, tokens_BT, valid_BT, reset_B = x
        segment_rngs = {name: jax.random.fold_in(key, index) for name, key in rngs.items()}
        out = model.apply(variables, tokens_BT, state, valid_BT, reset_B, rngs=segment_rngs,
                          deterministic=deterministic, logits=logits)
        return out.state, out.logits if logits else out.hidden

    xs = (jnp.arange(reset_BS.shape[1]), split_segments(tokens_BL, T),
          split_segments(valid_BL, T, fill=False), reset_BS.T)
    state, y_SBTX = scan_segments(step, state, xs, bptt_segments=bptt_segments)
    y_BLX = y_SBTX.swapaxes(0, 1).reshape(B, -1, y_SBTX.shape[-1])[:, :L]
    return Output(logits=y_BLX, state=state) if logits else (
        Output(logits=None, state=state, hidden=y_BLX))
