"""Reading: texts of any length are streamed through a model, segment by segment."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import ModelConfig
from lm2_jax.data.babilong.mixing import Joined
from lm2_jax.model import wavefront
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import scan_segments, wavefront_groups
from lm2_jax.model.state import constrain_state, init_state, resize_window, take_rows, window_size
from lm2_jax.model.wavefront import Pipeline
from lm2_jax.types import Output, Params, State, Tokens

CHUNK = 32  # segments that go to the device at once


@dataclasses.dataclass(frozen=True)
class Reading:
    """What has been read, row by row.

    The state has the rows that were asked for and, after them, rows that only fill up the batch.
    All fields but `rows` cover both.

    Attributes:
      state: after the full segments of each row. Its window may be smaller than the model's
        `attention_window`, as long as it holds every token that was read.
      tails: int32, the tokens of each row's running segment, at most segment_length of them, in
        order. The state does not know them yet. Only a row that has read nothing has an empty
        tail: a last segment that is full stays here until another token follows.
      segments: the number of full segments that the state of each row has read.
      rows: number of rows that were asked for.
    """

    state: State
    tails: tuple[np.ndarray, ...]
    segments: tuple[int, ...]
    rows: int

    def tokens_read(self, segment_length: int) -> list[int]:
        """Returns the number of tokens that each row has read, without the rows that fill up."""
        return [n * segment_length + len(tail) for n, tail in
                zip(self.segments[:self.rows], self.tails, strict=False)]

    def take(self, rows: Sequence[int], batch_size: int = 0) -> "Reading":
        """Returns the reading of the chosen rows; a row may be chosen several times.

        Args:
          rows: of this reading, in the order of the new rows.
          batch_size: number of rows that the new state has at least.
        """
        chosen = [*rows, *[rows[0]] * (batch_size - len(rows))]
        state = self.state
        if chosen != list(range(len(self.tails))):
            state = take(state, np.array(chosen, np.int32))
        return Reading(state, tuple(self.tails[b] for b in chosen),
                       tuple(self.segments[b] for b in chosen), len(rows))


def read(model: LanguageModel, params: Params, prompts: Sequence[Tokens],
         begin: Reading | None = None, *, pad_id: int, wipe: bool = False, batch_size: int = 0,
         places: int | None = None, progress: Callable[[int], None] = lambda tokens: None
         ) -> Reading:
    """Reads on from a reading, or from the initial state; see `Engine.read`."""
    c, asked = model.config, len(prompts)
    T, B = c.segment_length, max(asked, batch_size)
    prompts = [*prompts, *[prompts[0][:1]] * (B - asked)]
    known = [0] * B
    if begin is None:
        before, state = (0,) * B, None
    else:
        begin = begin.take(range(asked), B)
        before, state = begin.segments, begin.state
        prompts = [Joined((tail, cast(Any, prompt))) for tail, prompt in
                   zip(begin.tails, prompts, strict=True)]
        known = [len(tail) for tail in begin.tails]
    if not all(map(len, prompts)):
        raise ValueError("a prompt is empty, and there is no text before it")
    full_B = [(len(prompt) - 1) // T for prompt in prompts]
    most = max(n + m for n, m in zip(before, full_B, strict=True))
    state = with_places(c, B, state, places_for(most, 0, T) if places is None else places)
    groups = wavefront_groups(c, max(full_B), B) if max(full_B) else ()
    carried: State | Pipeline = fill(c, state, B, groups) if groups else state
    reset_B = np.full(B, wipe)
    s, running = 0, _Progress(progress)
    while s < max(full_B):
        count = CHUNK if s + CHUNK <= max(full_B) else 1
        rows = [[p[i * T:(i + 1) * T] if i < n else () for p, n in
                 zip(prompts, full_B, strict=True)] for i in range(s, s + count)]
        segments = [padded(row, T, pad_id) for row in rows]
        # The state that the caller's reading holds is not given away.
        run = advance if begin and carried is begin.state else advance_in_place
        carried = run(model, params, carried, *map(np.stack, zip(*segments, strict=True)), reset_B)
        new = sum(len(tokens) for row in rows for tokens in row)
        running.add(carried, new - (sum(k for k, n in zip(known, full_B, strict=True) if n)
                                  if s == 0 else 0))
        s += count
    running.wait()
    state = carried if isinstance(carried, State) else drain(model, params, carried)
    tails = [np.asarray(p[n * T:], np.int32) for p, n in zip(prompts, full_B, strict=True)]
    progress(sum(len(tail) - (0 if n else k) for tail, n, k in
                 zip(tails[:asked], full_B, known, strict=False)))
    return Reading(state, tuple(tails), tuple(n + m for n, m in zip(before, full_B, strict=True)),
                   asked)


class _Progress:
    """Tells how many tokens have been read, when the device has read them.

    One chunk is computed while the next one is prepared. A state that is given to the next chunk
    cannot be waited for, so a single entry of it is.
    """

    def __init__(self, progress: Callable[[int], None]):
        self._progress = progress
        self._entry: Any = None
        self._tokens = 0

    def add(self, state: State | Pipeline, tokens: int) -> None:
        """Takes what is carried after a chunk; waits for the chunk before it."""
        entry = _an_entry(state)
        self.wait()
        self._entry, self._tokens = entry, tokens

    def wait(self) -> None:
        jax.block_until_ready(self._entry)
        if self._tokens:
            self._progress(self._tokens)
        self._entry, self._tokens = None, 0


def padded(rows: Sequence[np.ndarray | Sequence[int]], length: int, pad_id: int
           ) -> tuple[np.ndarray, np.ndarray]:
    """Returns (tokens int32, valid bool), [rows, length] each, with the padding at the end."""
    tokens = np.full((len(rows), length), pad_id, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for b, row in enumerate(rows):
        tokens[b, :len(row)] = row
        valid[b, :len(row)] = True
    return tokens, valid


def places_for(full_segments: int, max_new_tokens: int, segment_length: int) -> int:
    """Returns how many earlier tokens the window must hold.

    It is no more than there will be, rounded up to a power of two of segments, so that few sizes
    are compiled.
    """
    T = segment_length
    return T << (full_segments + -(-max_new_tokens // T)).bit_length()


def with_places(config: ModelConfig, batch_size: int, state: State | None, places: int) -> State:
    """Returns the state, or a new one, with a window of at least so many places."""
    places = min(places, config.attention_window)
    if state is None:
        return first_state(config, batch_size, places)
    size = window_size(state)
    return state if size is None or size >= places else _resize(state, places)


# These are outside of `read`, so that all readings by one model share what is compiled.

first_state = jax.jit(init_state, static_argnums=(0, 1, 2))
_an_entry = jax.jit(lambda state: [leaf[(0,) * leaf.ndim] for leaf in jax.tree.leaves(state)[:1]])
take = jax.jit(lambda state, rows_B: constrain_state(take_rows(state, rows_B)))
_resize = jax.jit(resize_window, static_argnums=1)


def _advance_all(model: LanguageModel, params: Params, carried: State | Pipeline, tokens_CBT,
                 valid_CBT, reset_B) -> State | Pipeline:
    """Returns what is carried after C segments: the state, or the pipeline of a wavefront.

    It is sharded as the one that went in, so that it can take its place.
    """
    def step(carried, x):
        if not isinstance(carried, State):
            return wavefront.tick(model, params, carried, x[0], x[1], reset_B)[0], None
        out: Output = model.apply(params, x[0], carried, x[1], reset_B, logits=False)
        return out.state, None

    xs = tokens_CBT, valid_CBT
    if not isinstance(carried, State):
        params = wavefront.gathered(model, params)
    return (scan_segments(step, carried, xs, remat=False)[0] if isinstance(carried, State) else
            jax.lax.scan(step, carried, xs)[0])


advance = jax.jit(_advance_all, static_argnums=0)
advance_in_place = jax.jit(_advance_all, static_argnums=0, donate_argnums=2)
fill = jax.jit(wavefront.begin, static_argnums=(0, 2, 3))


@functools.partial(jax.jit, static_argnums=0)
def drain(model: LanguageModel, params: Params, pipeline: Pipeline) -> State:
    """Returns the state after all segments that have entered the pipeline of a wavefront."""
    c, B = model.config, pipeline[0].signal.reset_B.shape[1]
    groups, T = tuple(len(stack.signal.cut) for stack in pipeline), c.segment_length
    C = wavefront.fill_ticks(groups)
    last = _advance_all(model, params, pipeline, jnp.zeros((C, B, T), jnp.int32),
                        jnp.zeros((C, B, T), bool), jnp.zeros(B, bool))
    return constrain_state(wavefront.end(c, cast(Pipeline, last)))
