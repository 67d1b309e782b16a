"""The engine of generation: reads texts of any length, and writes on from what was read."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.generation import decoding
from lm2_jax.generation import reading as readings
from lm2_jax.generation.decoding import Decoding
from lm2_jax.generation.reading import Reading, places_for
from lm2_jax.generation.sampling import Sampling
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.running import running_with_axes
from lm2_jax.model.schedule import wavefront_groups
from lm2_jax.model.state import init_state, with_axes
from lm2_jax.model.wavefront import begin, pipeline_with_axes
from lm2_jax.types import Params, Tokens


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
                 wipe: bool = False) -> Decoding:
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
        return Decoding(self.model, self.params, reading, sampling, max_new_tokens,
                        pad_id=self.pad_id, seeds=seeds, seen_BV=seen_BV, wipe=wipe)

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


def traced(model: LanguageModel, params: Params, batch_size: int, places: int,
           mesh: partition.AnyMesh) -> dict[str, jax.stages.Traced]:
    """Returns what `Engine.answer` runs, traced for arrays of these shapes, by what it does.

    Args:
      params: abstract, with shardings.
      places: number of earlier tokens that the window holds.
    """
    B, T = batch_size, model.config.segment_length

    def abstract(a, *names):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=partition.named(mesh, *names))

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    def segments(*shape):
        return of(jnp.int32, *shape, B, T), of(bool, *shape, B, T)

    state = with_axes(abstract, jax.eval_shape(
        functools.partial(init_state, model.config, B, places)))
    first = decoding.begin.trace(model, Sampling(), T, params, state, *segments(), of(bool, B),
                                 of(jnp.uint32, B), None)
    position, _ = first.out_info
    position = dataclasses.replace(position, running=running_with_axes(abstract, position.running),
                                   tokens_BT=of(jnp.int32, B, T), index=of(jnp.int32))
    groups = wavefront_groups(model.config, readings.CHUNK, B)
    carried = pipeline_with_axes(abstract, jax.eval_shape(
        lambda state: begin(model.config, state, B, groups), state)) if groups else state
    return {f"read {readings.CHUNK} segments": readings.advance_in_place.trace(
                model, params, carried, *segments(readings.CHUNK), of(bool, B)),
            "first token": first,
            "next token": decoding.step.trace(model, Sampling(), params, position,
                                              of(jnp.int32, B), of(jnp.uint32, B))}
