"""What an evaluation of a trained model is: BABILong is one, others stand beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lm2_jax.config import Config
from lm2_jax.eval.journal import UNFINISHED, Journal
from lm2_jax.runtime import processes
from lm2_jax.types import Params

DEFAULT = "babilong"  # its results are in the evaluation's folder itself

Progress = Callable[[int, str], None]  # tokens read since the last call; a word on the results


class Evaluator(Protocol):
    """Measures a model on what it was built with.

    Attributes:
      name: key of its results; theirs is the folder `results_folder(..., name)`.
      config: of the evaluation; stored beside the results.
    """

    name: str
    config: Config

    @property
    def empty_key(self) -> str:
        """The key of the config that leaves nothing to evaluate; "" if there is something."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines that a user must read before the results."""

    def identity(self, params: Params, step: int) -> Mapping[str, object]:
        """Everything that the results depend on, as JSON values; every process must call this."""

    def tokens_to_read(self, journal: Journal) -> tuple[int, int]:
        """Tokens of the whole evaluation, and those of the answers that the journal has."""

    def run(self, params: Params, *, journal: Journal | None = None,
            progress: Progress | None = None, between: Callable[[], None] | None = None
            ) -> Iterator[tuple[Any, Any]]:
        """Yields each row of the results as soon as it is complete, with its details.

        Args:
          journal: has the answers of an interrupted run; new ones are added.
          progress: called as the evaluation goes on.
          between: called after every batch, by all processes; if it raises, the evaluation ends.
        """

    def remove(self, folder: Path) -> None:
        """Removes the results of an earlier evaluation from a folder, and nothing else."""

    def write(self, folder: Path, results: Sequence[tuple[Any, Any]]) -> None:
        """Writes what `run` has yielded so far; called after each of its rows."""


def results_folder(folder: Path, name: str) -> Path:
    """The folder of an evaluator's results in an evaluation's folder."""
    return folder if name == DEFAULT else folder / name


def open_journal(evaluator: Evaluator, folder: Path, params: Params, step: int) -> Journal:
    """The journal of an evaluation; every process must call this."""
    identity = dict(evaluator.identity(params, step))
    # All processes resume from the same answers; one of them adds to the file.
    return processes.primary_first(lambda: Journal(
        folder / UNFINISHED, identity, adds=processes.is_primary()))
