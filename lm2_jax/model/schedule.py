"""Schedules: how the segments of a sequence are run through the model."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.config import ModelConfig
from lm2_jax.config.model import SCHEDULES
from lm2_jax.model import kernels, wavefront
from lm2_jax.model.block import BLOCK_INPUT
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import constrain_state
from lm2_jax.types import Array, Output, Params, State

WORTHWHILE = 1.1  # expected gain from which "auto" takes the wavefront


class Segments(NamedTuple):
    """The segments of a sequence.

    Attributes:
      tokens_SBT: int32.
      valid_SBT: bool, False for padding.
      reset_SB: bool, rows that begin a new sequence with a segment.
    """

    tokens_SBT: Array
    valid_SBT: Array
    reset_SB: Array


def wavefront_groups(config: ModelConfig, num_segments: int, rows: int,
                     schedule: str | None = None) -> tuple[int, ...]:
    """Returns the number of groups of each stack in the wavefront; () for the sequential schedule.

    "wavefront" makes a group of every block. "auto" takes the numbers of groups with the largest
    expected gain if that is at least WORTHWHILE, and else the sequential schedule. On a mesh with
    stages both make one group of each stack for each stage.

    Args:
      rows: of the batch, on all devices.
      schedule: one of SCHEDULES; None = that of the config.

    Raises:
      ValueError: if there is no such schedule, or the model's memory needs the sequential one.
    """
    schedule = schedule or config.schedule
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}")
    if config.carries_tokens:
        if schedule == "wavefront":
            raise ValueError("schedule is 'wavefront'; it must be sequential or auto for rmt, "
                             "whose memory comes from the last block")
        return ()
    stages = partition.num_stages()
    if stages > 1 and schedule != "sequential":
        return (stages,) * len(config.stacks)
    if schedule == "wavefront":
        return config.stacks
    if schedule == "sequential":
        return ()
    divisors = [[n for n in range(1, count + 1) if count % n == 0] for count in config.stacks]
    groups = max(itertools.product(*divisors),
                 key=lambda groups: expected_gain(config, num_segments, rows, groups))
    gain = expected_gain(config, num_segments, rows, groups)
    return groups if gain >= WORTHWHILE else ()


def expected_gain(config: ModelConfig, num_segments: int, rows: int, groups: tuple[int, ...]
                  ) -> float:
    """Returns the expected speed of the wavefront over that of the sequential schedule.

    Let f be the tokens at which a block fills the device, and n the tokens of a segment in all rows
    of the device. Then g groups at once take max(f, g n) / max(f, n) times as long as one block. A
    stack of N blocks takes N / g such steps a tick, and S segments take S + `fill_ticks` ticks.
    """
    filling = kernels.filling_tokens(config.embed_dim)
    tokens = max(rows // partition.row_ways(), 1) * config.segment_length
    of_tick = sum(count / g * max(filling, g * tokens) / max(filling, tokens)
                  for count, g in zip(config.stacks, groups, strict=True))
    ticks = max(num_segments + wavefront.fill_ticks(groups), 1)
    return num_segments * config.num_layers / (ticks * of_tick)


def read_segments(model: LanguageModel, variables: Params, state: State, segments: Segments,
                  finish: Callable[[Output, Any], Any], xs: Any = None, *,
                  schedule: str | None = None, logits: bool = False, bptt_segments: int = 0,
                  remat: bool = False, unroll: int = 1, dropout: Array | None = None,
                  write_rates: bool = False) -> tuple[State, Any, Array]:
    """Reads segments one after the other, or as a wavefront, with the same results.

    Args:
      state: before the first segment.
      finish: (what the model returns for a segment, without its state, and the segment's x) -> y.
      xs: tree of arrays [S, ...], of which each segment has an x.
      schedule: one of SCHEDULES; None = that of the model's config.
      logits: whether `finish` gets logits; else it gets hidden states.
      bptt_segments, remat: as `scan_segments` takes them.
      unroll: as `scan_segments` takes it, for the sequential schedule.
      dropout: key; None for no dropout. The masks depend on the schedule.
      write_rates: whether the third result is computed; else it is 0.

    Returns:
      (state after the last segment, ys with a leading axis [S, ...], sum of `wavefront.write_rate`
      over segments and blocks).
    """
    S, B, _ = segments.tokens_SBT.shape
    write_rates = write_rates and model.config.memory.closes
    groups = wavefront_groups(model.config, S, B, schedule)
    if groups:
        return _as_wavefront(model, variables, state, segments, finish, xs, groups, logits=logits,
                             bptt_segments=bptt_segments, remat=remat, dropout=dropout,
                             write_rates=write_rates)

    def step(state, x):
        number, (tokens_BT, valid_BT, reset_B), rest = x
        rngs = None if dropout is None else {"dropout": jax.random.fold_in(dropout, number)}
        options: dict = dict(mutable="intermediates") if write_rates else {}
        out = model.apply(variables, tokens_BT, state, valid_BT, reset_B, rngs=rngs, logits=logits,
                          deterministic=dropout is None, **options)
        out, sown = out if write_rates else (out, None)
        rate = wavefront.write_rate(
            sown["intermediates"]["memory_blocks"]["memory"], 2) if sown else jnp.zeros(())
        return out.state, (finish(Output(out.logits, None, out.hidden), rest), rate)

    state, (ys, rate_S) = scan_segments(step, state, (jnp.arange(S), segments, xs),
                                          bptt_segments=bptt_segments, remat=remat, unroll=unroll)
    return state, ys, rate_S.sum()


def _as_wavefront(model: LanguageModel, variables: Params, state: State, segments: Segments,
                  finish: Callable, xs, groups: tuple[int, ...], *, logits: bool,
                  bptt_segments: int, remat: bool, dropout: Array | None, write_rates: bool
                  ) -> tuple[State, Any, Array]:
    """`read_segments` with blocks in these groups: first the blocks, then the head of each segment.

    With `remat` the backward pass recomputes each tick from the state and the outputs of the groups
    after the tick before.
    """
    S, B, _ = segments.tokens_SBT.shape
    fill, whole = wavefront.fill_ticks(groups), wavefront.gathered(model, variables)
    padded = jax.tree.map(lambda a: jnp.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1)), segments)

    def body(pipeline, x):
        number, (tokens_BT, valid_BT, reset_B) = x
        cut = number % bptt_segments == 0 if bptt_segments else False
        key = None if dropout is None else jax.random.fold_in(dropout, number)
        pipeline, x_BSD, rate = wavefront.tick(
            model, whole, pipeline, tokens_BT, valid_BT, reset_B, cut, dropout=key,
            write_rates=write_rates, deterministic=dropout is None)
        return pipeline, (x_BSD, rate)

    def last(_, x):
        x_BSD, valid_BT, rest = x
        out = model.apply(variables, x_BSD, State(None, None), valid_BT, logits, method="head")
        return None, finish(out, rest)

    if remat:
        body, last = (jax.checkpoint(f, prevent_cse=False) for f in (body, last))
    pipeline, (x_XBSD, rate_X) = jax.lax.scan(
        body, wavefront.begin(model.config, state, B, groups), (jnp.arange(S + fill), padded))
    # Otherwise the partitioner replicates the outputs of all ticks on every device.
    x_XBSD = partition.constrain(x_XBSD, "act_segment", "act_batch", "act_len", "act_embed")
    _, ys = jax.lax.scan(last, None, (x_XBSD[fill:], segments.valid_SBT, xs))
    return constrain_state(wavefront.end(model.config, pipeline)), ys, rate_X.sum()


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
                   schedule: str | None = None, bptt_segments: int = 0, *,
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
      schedule: "sequential", "wavefront" or "auto", with the same results; None = that of the
        model's config.
      bptt_segments: number of segments per group of truncated backpropagation through time;
        0 = all.
      deterministic: False applies dropout, which needs `rngs`.
      logits: False returns the final hidden states, from which `unembed` computes the logits.
      rngs: {"dropout": key}, from which each segment and block has a key of its own.

    Returns:
      Output(logits [B, L, V] float32, state), or Output(None, state, hidden [B, L, D]) if
      `logits` is False.

    Raises:
      ValueError: if a shape does not match the others or the model.
    """
    schedule = schedule or model.config.schedule
    B, L = tokens_BL.shape
    S = -(-L // model.config.segment_length)
    valid_BL = jnp.ones((B, L), bool) if valid_BL is None else valid_BL
    reset_BS = jnp.zeros((B, S), bool) if reset_BS is None else reset_BS
    if valid_BL.shape != (B, L) or reset_BS.shape != (B, S):
        raise ValueError(f"valid_BL has shape {valid_BL.shape} and reset_BS {reset_BS.shape}; "
                         f"they must be {(B, L)} and {(B, S)}")
    wavefront_groups(model.config, S, B, schedule)
    dropout = None if deterministic or not model.config.dropout else (rngs or {}).get("dropout")
    if dropout is None and not deterministic and model.config.dropout:
        raise ValueError('deterministic is False; dropout needs rngs={"dropout": key}')
    return _apply_segments(model, schedule, bptt_segments, logits, variables, tokens_BL, state,
                           valid_BL, reset_BS, dropout)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _apply_segments(model: LanguageModel, schedule: str, bptt_segments: int, logits: bool,
                    variables: Params, tokens_BL: Array, state: State, valid_BL: Array,
                    reset_BS: Array, dropout: Array | None) -> Output:
    (B, L), T = tokens_BL.shape, model.config.segment_length
    segments = Segments(split_segments(tokens_BL, T), split_segments(valid_BL, T, fill=False),
                        reset_BS.T)
    state, y_SBTX, _ = read_segments(
        model, variables, state, segments, lambda out, _: out.logits if logits else out.hidden,
        schedule=schedule, logits=logits, bptt_segments=bptt_segments, remat=True, dropout=dropout)
    y_BLX = y_SBTX.swapaxes(0, 1).reshape(B, -1, y_SBTX.shape[-1])[:, :L]
    return Output(logits=y_BLX, state=state) if logits else (
        Output(logits=None, state=state, hidden=y_BLX))
