"""What a model has read, as one value that goes on from there, and many of them in one batch."""

import dataclasses
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.errors import UserError
from lm2_jax.generation.reading import Reading, with_places
from lm2_jax.types import State


@dataclasses.dataclass(frozen=True)
class Source:
    """A text that was read.

    Attributes:
      name: of the text, such as that of its file.
      sha256: hex, of the text in UTF-8.
      tokens: number of them.
    """

    name: str
    sha256: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class ReadState:
    """What a model has read: `lm2.generate` and `lm2.read` go on from it, as often as wanted.

    Attributes:
      run: the model that has read it.
      reading: its state, of one row.
      sources: the texts, in the order in which they were read.
    """

    run: Run = dataclasses.field(repr=False)
    reading: Reading = dataclasses.field(repr=False)
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """The name of the last text."""
        return self.sources[-1].name if self.sources else ""

    @property
    def tokens(self) -> int:
        """The number of tokens read, those of questions and answers included."""
        return self.reading.tokens_read(self.run.config.model.segment_length)[0]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the state to a file, for `lm2.read_state` and `lm2 generate --state`."""
        from lm2_jax.generation import saved

        saved.save(path, [self])

    def require(self, run: Run) -> None:
        """Raises a UserError unless `run` is the model that has read this."""
        if self.run is not run:
            require_same(run, f"the state of {self.name or 'a text'}", self.run.digest,
                         self.run.tokenizer.digest, describe(self.run))


def describe(run: Run) -> str:
    """Names a run in messages."""
    return f"{run.workdir or 'a model in memory'} at step {run.step}"


def require_same(run: Run, what: str, model: str, tokenizer: str, made_by: str) -> None:
    """Raises a UserError unless a run has these digests of model and tokenizer."""
    for name, there, here in (("tokenizer", tokenizer, run.tokenizer.digest),
                              ("model", model, run.digest)):
        if there != here:
            raise UserError(f"{what} was made with another {name}: that of {made_by} (digest "
                            f"{there[:12]}), not that of {describe(run)} ({here[:12]})")


def joined(states: Sequence[ReadState]) -> Reading:
    """Returns the reading of a batch that has a row for each state."""
    readings, rows = [state.reading for state in states], len(states)
    if all(reading is readings[0] for reading in readings):
        return readings[0].take([0] * rows)
    config = states[0].run.config.model
    whole = [with_places(config, 1, reading.take([0]).state, config.attention_window)
             for reading in readings]
    return Reading(_concatenated(whole), tuple(reading.tails[0] for reading in readings),
                   tuple(reading.segments[0] for reading in readings), rows)


@jax.jit
def _concatenated(states: Sequence[State]) -> State:
    def concatenate(path, *arrays):
        axis = 0 if path[-1] == jax.tree_util.GetAttrKey("valid_BW") else 1
        return jnp.concatenate(arrays, axis=axis)

    return jax.tree_util.tree_map_with_path(concatenate, *states)
