"""The engine of generation: reads texts of any length, and writes on from what was read."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.generate import reading as readings
from lm2_jax.generate.reading import Reading, padded, places_for
from lm2_jax.generate.sampling import Sampling, sample
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import (
    LanguageModel,
    constrain_state,
    init_state,
    select_rows,
    with_axes,
)
from lm2_jax.types import Output, Params, State, Tokens


class Engine:
    """Reads texts and generates tokens; compiled once per model and batch size.

    A text is cut into full segments and a last one of 1 to segment_length tokens. The full ones go
    to the device in runs of CHUNK, then one by one: a text is never there as a whole, nor on the
    host, if it is made as it is read. Rows whose full segments have been read wait under padding,
    which changes nothing.

    Args:
      pad_id: token of the padding.
      stop_ids: tokens at which `answer` ends.
    """

    def __init__(self, model: LanguageModel, params: Params, *, pad_id: int,
                 stop_ids: Collection[int] = ()):
        self.model, self.params = model, params
        self.pad_id, self.stop_ids = pad_id, stop_ids

    def read(self, prompts: Sequence[Tokens], begin: Reading | None = None, *, wipe: bool = False,
             batch_size: int = 0, places: int | None = None,
             progress: Callable[[int], None] = lambda tokens: None) -> Reading:
        """Reads texts, segments being cut as if those of `begin` and these were one.

        Args:
          prompts: int32 tokens of any length: arrays, or objects whose slices are arrays. One may
            be empty only where `begin` has read something.
          begin: what each row has read before; None for nothing.
          wipe: put the memory back to the initial state at every segment.
          batch_size: number of rows that are computed at least, so that one compilation serves a
            short batch.
          places: number of earlier tokens that the state's window can hold at least, from
            `places_for`; None for as many as are read.
          progress: called with the number of tokens of the prompts read since the last call.

        Returns:
          The reading of `begin` and the prompts, with a row for each prompt.

        Raises:
          ValueError: if a prompt is empty and there is nothing before it.
        """
        return readings.read(self.model, self.params, prompts, begin, pad_id=self.pad_id,
                             wipe=wipe, batch_size=batch_size, places=places, progress=progress)

    def generate(self, reading: Reading, sampling: Sampling, max_new_tokens: int, *,
                 seeds: Sequence[int] | None = None, seen_BV: np.ndarray | None = None,
                 wipe: bool = False) -> "Decoding":
        """Generates tokens after what was read; see `Decoding`.

        Args:
          reading: stays as it is, and can be generated from again.
          max_new_tokens: of each row.
          seeds: of each row, uint32; None = 0. The text of a row depends on its seed, not on the
            batch that it is in.
          seen_BV: bool, the tokens that count as seen by `sampling.repetition_penalty`; None = the
            tokens of `reading.tails`. Generated ones are added.
          wipe: put the memory back to the initial state at every segment.
        """
        return Decoding(self, reading, sampling, max_new_tokens, seeds, seen_BV, wipe)

    def answer(self, prompts: Sequence[Tokens], max_new_tokens: int, *, wipe: bool = False,
               batch_size: int = 0, progress: Callable[[int], None] = lambda tokens: None
               ) -> list[list[int]]:
        """Returns the most likely tokens after each prompt, up to one of `stop_ids` (excluded).

        The arguments are those of `read` and `generate`.
        """
        T = self.model.config.segment_length
        most = max((len(prompt) - 1) // T for prompt in prompts)
        reading = self.read(prompts, wipe=wipe, batch_size=batch_size,
                            places=places_for(most, max_new_tokens, T), progress=progress)
        answers: list[list[int]] = [[] for _ in prompts]
        going = set(range(len(prompts)))
        for token_B in self.generate(reading, Sampling(), max_new_tokens, wipe=wipe):
            for b in sorted(going):
                if token_B[b] in self.stop_ids:
                    going.remove(b)
                else:
                    answers[b].append(int(token_B[b]))
            if not going:
                break
        return answers


class Decoding(Iterator[np.ndarray]):
    """Yields the new tokens, int32 [B], one step at a time, for all rows alike.

    The iteration may be left at any token. A row goes on after a stop token; what to leave out is
    up to the caller.
    """

    def __init__(self, engine: Engine, reading: Reading, sampling: Sampling, max_new_tokens: int,
                 seeds: Sequence[int] | None, seen_BV: np.ndarray | None, wipe: bool):
        T, B = engine.model.config.segment_length, len(reading.tails)
        self._engine, self._sampling, self._left = engine, sampling, max_new_tokens
        self._rows, self._segments = reading.rows, list(reading.segments)
        self._tails = [list(tail) for tail in reading.tails]
        places = places_for(max(reading.segments), max_new_tokens, T)
        self._state = readings.with_places(engine.model.config, B, reading.state, places)
        self._index, self._reset_B = 0, np.full(B, wipe)
        self._seed_B = np.zeros(B, np.uint32)
        self._seed_B[:reading.rows] = 0 if seeds is None else seeds
        self._seen_BV = None
        if sampling.repetition_penalty != 1:
            self._seen_BV = np.zeros((B, engine.model.config.vocab_size), bool)
            for b, tail in enumerate(reading.tails):
                self._seen_BV[b, tail] = True
            if seen_BV is not None:
                self._seen_BV[:reading.rows] = seen_BV

    def __next__(self) -> np.ndarray:
        if not self._left:
            raise StopIteration
        engine, T = self._engine, self._engine.model.config.segment_length
        index_B = np.full(len(self._tails), self._index, np.int32)
        after, token_B = _read(engine.model, self._sampling, engine.params, self._state,
                               *padded(self._tails, T, engine.pad_id), self._reset_B, self._seed_B,
                               index_B, self._seen_BV)
        closed_B = np.array([len(tail) == T for tail in self._tails])
        if closed_B.any():
            self._state = _choose(closed_B, after, self._state)
        token_B = np.asarray(token_B)
        for b, token in enumerate(token_B.tolist()):
            self._tails[b] = ([] if closed_B[b] else self._tails[b]) + [token]
            self._segments[b] += int(closed_B[b])
            if self._seen_BV is not None:
                self._seen_BV[b, token] = True
        self._index, self._left = self._index + 1, self._left - 1
        return token_B[:self._rows]

    @property
    def reading(self) -> Reading:
        """What has been read and generated so far, as if it had been read at once."""
        return Reading(self._state, tuple(np.array(tail, np.int32) for tail in self._tails),
                       tuple(self._segments), self._rows)


# These are outside of the classes, so that all engines of a model share what is compiled.

@jax.jit
def _choose(choose_B, chosen: State, other: State) -> State:
    return constrain_state(select_rows(choose_B, chosen, other))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(model: LanguageModel, sampling: Sampling, params: Params, state: State, tokens_BT,
          valid_BT, reset_B, seed_B, index_B, seen_BV):
    """Returns the next state, and the token after the last valid one of each row."""
    out: Output = model.apply(params, tokens_BT, state, valid_BT, reset_B, logits=False)
    assert out.hidden is not None  # logits=False
    last_B = jnp.maximum(jnp.sum(valid_BT, axis=1) - 1, 0)
    x_B1D = jnp.take_along_axis(out.hidden, last_B[:, None, None], axis=1)
    logits_BV = unembed(x_B1D, unembedding(model.config, params))[:, 0]
    token_B = sample(logits_BV, sampling, seed_B, index_B, seen_BV)
    return out.state, partition.constrain(token_B, None)  # whole on every host


def traced(model: LanguageModel, params: Params, batch_size: int, places: int,
           mesh: partition.AnyMesh) -> dict[str, jax.stages.Traced]:
    """Returns what `Engine.answer` runs, traced for arrays of these shapes, by what it does.

    Args:
      params: abstract, with shardings.
      places: number of earlier tokens that the window holds.
    """
    B, T = batch_size, model.config.segment_length
    state = with_axes(
        lambda a, *names: jax.ShapeDtypeStruct(a.shape, a.dtype,
                                               sharding=partition.named(mesh, *names)),
        jax.eval_shape(functools.partial(init_state, model.config, B, places)))
    reset_B = jax.ShapeDtypeStruct((B,), bool)

    def segments(*shape):
        return (jax.ShapeDtypeStruct((*shape, B, T), jnp.int32),
                jax.ShapeDtypeStruct((*shape, B, T), bool))

    seed_B, index_B = (jax.ShapeDtypeStruct((B,), dtype) for dtype in (jnp.uint32, jnp.int32))
    return {f"read {readings.CHUNK} segments": readings.advance_in_place.trace(
                model, params, state, *segments(readings.CHUNK), reset_B),
            "next token": _read.trace(model, Sampling(), params, state, *segments(), reset_B,
                                      seed_B, index_B, None)}
