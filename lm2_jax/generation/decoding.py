"""Decoding: one token after the other, each computed from those before it in a cache."""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm2_jax import partition
from lm2_jax.generation.reading import Reading, advance, padded, places_for, take, with_places
from lm2_jax.generation.sampling import Sampling, sample
from lm2_jax.model import kernels
from lm2_jax.model import running as segments
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import constrain_state, put_rows, select_rows, take_rows
from lm2_jax.types import Params, Running, State

SHORTEST = 64  # tokens for which a program is compiled at least
AHEAD = 1  # tokens that are computed before the host has seen the one before them


@struct.dataclass
class Position:
    """Where the rows are in their texts: all that the next token is computed from.

    Attributes:
      running: the running segment of each row.
      tokens_BT: int32, its tokens.
      index: int32, number of tokens that were generated, the same in all rows.
      seen_BV: bool, for `sample`; None if it needs none.
    """

    running: Running
    tokens_BT: jax.Array
    index: jax.Array
    seen_BV: jax.Array | None


class _Step(NamedTuple):
    """A token that is being computed, the rows whose segment ended before it, and their state."""

    token_B: jax.Array
    closed: list[int]
    state: State


class Decoding(Iterator[np.ndarray]):
    """Yields the new tokens, int32 [B], one step at a time, for all rows alike.

    The iteration may be left at any token. A row goes on after a stop token; what to leave out is
    up to the caller. A row's segment is read again as a whole when it is full, which gives the
    state after it as `Engine.read` does: bit for bit where all rows are read again together, as a
    single row always is, and else but for the rounding of products of another size.

    The arguments are those of `Engine` and `Engine.generate`.
    """

    def __init__(self, model: LanguageModel, params: Params, reading: Reading, sampling: Sampling,
                 max_new_tokens: int, *, pad_id: int, seeds: Sequence[int] | None = None,
                 seen_BV: np.ndarray | None = None, wipe: bool = False):
        if not all(map(len, reading.tails)):
            raise ValueError("a row of the reading has no token; there is nothing to go on from")
        c = model.config
        T, B = c.segment_length, len(reading.tails)
        self._model, self._params, self._sampling = model, params, sampling
        self._rows, self._left, self._pad_id = reading.rows, max_new_tokens, pad_id
        self._tails, self._segments = list(map(list, reading.tails)), list(reading.segments)
        self._reset_B, self._seed_B = np.full(B, wipe), np.zeros(B, np.uint32)
        if seeds is not None:
            self._seed_B[:reading.rows] = seeds
        self._seen_BV = None
        if sampling.repetition_penalty != 1:
            self._seen_BV = np.zeros((B, c.vocab_size), bool)
            for b, tail in enumerate(reading.tails):
                self._seen_BV[b, tail] = True
            if seen_BV is not None:
                self._seen_BV[:reading.rows] = seen_BV
        places = places_for(max(reading.segments), max_new_tokens, T)
        self._state = self._latest = with_places(c, B, reading.state, places)
        self._lengths = np.array(list(map(len, reading.tails)))
        self._position: Any = None
        self._token_B: Any = None
        self._ahead: deque[_Step] = deque()

    def __next__(self) -> np.ndarray:
        while self._left and len(self._ahead) <= AHEAD:
            self._ahead.append(self._compute())
            self._left -= 1
        if not self._ahead:
            raise StopIteration
        step = self._ahead.popleft()
        token_B = np.asarray(step.token_B)
        for b in step.closed:
            self._tails[b], self._segments[b] = [], self._segments[b] + 1
        for tail, token in zip(self._tails, token_B.tolist(), strict=True):
            tail.append(token)
        self._state = step.state
        return token_B[:self._rows]

    @property
    def reading(self) -> Reading:
        """What has been read and yielded so far, as if it had been read at once."""
        return Reading(self._state, tuple(np.array(tail, np.int32) for tail in self._tails),
                       tuple(self._segments), self._rows)

    def _compute(self) -> _Step:
        """Starts the computation of the next token, and closes the segments that are full."""
        model, T = self._model, self._model.config.segment_length
        if self._position is None:
            tokens_BT, valid_BT = padded(self._tails, _rounded(self._lengths.max(), T),
                                         self._pad_id)
            capacity = _rounded(self._lengths.max() + self._left, T)
            self._position, self._token_B = begin(
                model, self._sampling, capacity, self._params, self._state, tokens_BT, valid_BT,
                self._reset_B, self._seed_B, self._seen_BV)
        else:
            self._position, self._token_B = step(model, self._sampling, self._params,
                                                 self._position, self._token_B, self._seed_B)
            self._lengths += 1
        full = self._lengths == T
        if full.any():
            rows = _to_compute(full)
            chosen = slice(None) if rows is None else rows
            self._latest, self._position = close(model, self._params, self._latest, self._position,
                                                 rows, full[chosen], self._reset_B[chosen])
        self._lengths[full] = 0
        return _Step(self._token_B, np.flatnonzero(full).tolist(), self._latest)


def _rounded(tokens: int, segment_length: int) -> int:
    """Rounds a number of tokens up to a power of two, so that few sizes are compiled."""
    return min(max(1 << (int(tokens) - 1).bit_length(), SHORTEST), segment_length)


def _to_compute(full_B: np.ndarray) -> np.ndarray | None:
    """Returns the rows with a full segment, int32, the last repeated up to a power of four of them.

    None stands for all rows, if most are full, or if devices share the rows, so that none moves.
    """
    mesh, full = jax.sharding.get_abstract_mesh(), np.flatnonzero(full_B)
    count = 1
    while count < len(full):
        count *= 4
    if 2 * count > len(full_B) or not mesh.empty and partition.rows_per_step(mesh) > 1:
        return None
    return np.pad(full, (0, count - len(full)), mode="edge").astype(np.int32)


# These are outside of the class, so that all decoding by one model shares what is compiled.

@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def begin(model: LanguageModel, sampling: Sampling, capacity: int, params: Params, state: State,
          tokens_BT, valid_BT, reset_B, seed_B, seen_BV) -> tuple[Position, jax.Array]:
    """Reads the tails; returns where the rows are then, and the first token of each."""
    c, (B, T) = model.config, tokens_BT.shape
    running = segments.begin(c, params, state, B, capacity, reset_B)
    x_BTD, running = segments.extend(c, params, running, tokens_BT, valid_BT)
    x_B1D = jnp.take_along_axis(x_BTD, running.length_B[:, None, None] - 1, axis=1)
    tokens_BT = jnp.pad(tokens_BT, ((0, 0), (0, c.segment_length - T)))
    return _choose(model, sampling, params,
                   Position(running, tokens_BT, jnp.zeros((), jnp.int32), seen_BV), x_B1D, seed_B)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3,
                   compiler_options=kernels.DECODING_OPTIONS)
def step(model: LanguageModel, sampling: Sampling, params: Params, position: Position, token_B,
         seed_B) -> tuple[Position, jax.Array]:
    """Reads a token of each row; returns where the rows are then, and the next token of each."""
    running = position.running
    tokens_BT = position.tokens_BT.at[jnp.arange(len(token_B)), running.length_B].set(token_B)
    x_B1D, running = segments.extend(model.config, params, running, token_B[:, None],
                                     jnp.ones((len(token_B), 1), bool))
    position = dataclasses.replace(position, running=running, tokens_BT=tokens_BT)
    return _choose(model, sampling, params, position, x_B1D, seed_B)


def _choose(model: LanguageModel, sampling: Sampling, params: Params, position: Position,
            x_B1D: jax.Array, seed_B: jax.Array) -> tuple[Position, jax.Array]:
    """Chooses the tokens that follow the hidden vectors."""
    logits_BV = unembed(x_B1D, unembedding(model.config, params))[:, 0]
    index_B = jnp.full(len(logits_BV), position.index)
    token_B = sample(logits_BV, sampling, seed_B, index_B, position.seen_BV)
    seen_BV = position.seen_BV
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
    position = dataclasses.replace(position, index=position.index + 1, seen_BV=seen_BV)
    return position, partition.constrain(token_B, None)  # whole on every host


def close(model: LanguageModel, params: Params, state: State, position: Position,
          rows: np.ndarray | None, full_B: np.ndarray, reset_B: np.ndarray
          ) -> tuple[State, Position]:
    """Reads full segments as a whole, with the program of `Engine.read`.

    Args:
      state: before the segments.
      rows: int32, those to compute; None for all.
      full_B: bool, which of these rows have a full segment.
      reset_B: bool, which of them begin every segment with the initial state.

    Returns:
      The state after the segments, and the position before the first token of the next ones.
    """
    before = state if rows is None else take(state, rows)
    after = advance(model, params, before, *_full_segments(position.tokens_BT, rows, full_B),
                    reset_B)
    position = _follow(model, params, after, position, rows, full_B, reset_B)
    return after if rows is None else _put(state, rows, after), position


@jax.jit
def _full_segments(tokens_BT, rows, full_B) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens and which are valid, [1, B, T]; other rows are padding."""
    tokens_BT = tokens_BT if rows is None else tokens_BT[rows]
    return tokens_BT[None], jnp.broadcast_to(full_B[:, None], tokens_BT.shape)[None]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _follow(model: LanguageModel, params: Params, after: State, position: Position, rows, full_B,
            reset_B) -> Position:
    """Returns the position with new segments, after the given state, in the full rows."""
    running = old = position.running
    if rows is not None:
        old = take_rows(running, rows)
    capacity = running.valid_BC.shape[1] - running.before
    new = segments.begin(model.config, params, after, len(full_B), capacity, reset_B)
    new = select_rows(full_B, new, old)
    if rows is not None:
        new = put_rows(running, rows, new)
    return dataclasses.replace(position, running=segments.constrain_running(new))


_put = jax.jit(lambda state, rows, part: constrain_state(put_rows(state, rows, part)))
