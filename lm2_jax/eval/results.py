"""Files of a BABILong evaluation: results.json, and a CSV and a JSON of predictions a cell.

A cell is one task at one length. Its row of memory "carried" is the result; its row of memory
"reset", if there is one, is the control whose memory was reset at each segment. Files of
predictions have the names and the format of BABILong's own, so that its scripts read the folder
as the results of one model, and its subfolder `reset` as those of another.
"""

import csv
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lm2_jax.data.babilong.prompts import PARTS, TaskPrompt
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import replacing, write_text

MEMORY = ("carried", "reset")
_PARTS = "_".join(f"{part}_(yes|no)" for part in PARTS)
_PREDICTIONS = re.compile(rf".+_.+_{_PARTS}_chat_template_no\.(csv|json)")
GREEDY = {"num_beams": 1, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class Row:
    """The result of one task at one length; `tokens` and `segments` are means over samples.

    Attributes:
      length: its name, as "4k".
      memory: "carried", or "reset" if the memory was reset at each segment.
      n: number of samples.
      exact_match: rate of outputs equal to the target, 0 to 1, as the two that follow.
      accuracy: rate by the benchmark's own metric; None (null in JSON) for a task that it does not
        know.
      constant_answer: the best that one answer given to all of these samples can reach.
      unscorable: number of samples for which the benchmark's metric accepts no answer.
    """

    task: str
    length: str
    tokens: float
    segments: float
    memory: str
    n: int
    exact_match: float
    accuracy: float | None
    constant_answer: float
    unscorable: int = 0

    def __post_init__(self):
        where = f"row {self.task} {self.length}"
        if self.memory not in MEMORY:
            raise UserError(f"{where}: memory is {self.memory!r}, must be one of {MEMORY}")
        if self.n < 1:
            raise UserError(f"{where}: n is {self.n}, must be at least 1")
        if not 0 <= self.unscorable <= self.n:
            raise UserError(f"{where}: unscorable is {self.unscorable}, must be 0 to n = "
                             f"{self.n}")
        if not (self.tokens > 0 and self.segments > 0):
            raise UserError(f"{where}: tokens and segments must be positive, got "
                             f"{self.tokens} and {self.segments}")
        for name in ("exact_match", "accuracy", "constant_answer"):
            if name == "accuracy" and self.accuracy is None:
                continue
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{where}: {name} is {getattr(self, name)}, must be 0 to 1")


@dataclass(frozen=True)
class Cell:
    """The rows of one task at one length, at least one of the two."""

    carried: Row | None
    reset: Row | None

    @property
    def any(self) -> Row:
        """Either row, for what both have: task, length, tokens, segments, n, constant answer."""
        row = self.carried or self.reset
        if row is None:
            raise ValueError("a cell has at least one row")
        return row


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Pairs the rows of each task and length; tasks in natural order, lengths by tokens.

    Raises:
      ValueError: if there are no rows, or two of the same task, length and memory.
    """
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        pair = found.setdefault((row.task, row.length), {})
        if row.memory in pair:
            raise UserError(f"two {row.memory} rows of {row.task} {row.length}, need one")
        pair[row.memory] = row
    if not found:
        raise UserError("there are no rows to report, run an evaluation first")
    grid = [Cell(pair.get("carried"), pair.get("reset")) for pair in found.values()]
    return sorted(grid, key=lambda cell: (_natural(cell.any.task), cell.any.tokens))


def by_length(grid: Iterable[Cell]) -> list[list[Cell]]:
    """The cells of each length, lengths in order of their tokens."""
    columns: dict[str, list[Cell]] = {}
    for cell in grid:
        columns.setdefault(cell.any.length, []).append(cell)
    return sorted(columns.values(), key=lambda column: fmean(c.any.tokens for c in column))


def remove_results(folder: str | os.PathLike) -> None:
    """Removes results.json and the predictions, those in `reset` too, and nothing else."""
    folder = paths.of(folder)
    (folder / "results.json").unlink(missing_ok=True)
    for path in [*folder.glob("*"), *(folder / "reset").glob("*")]:
        if _PREDICTIONS.fullmatch(path.name):
            path.unlink()


def write_results(folder: str | os.PathLike, rows: Sequence[Row]) -> Path:
    """Writes folder/results.json, a list of objects with the fields of `Row`."""
    path = paths.of(folder) / "results.json"
    write_text(path, json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    return path


def read_results(folder: str | os.PathLike) -> list[Row]:
    """Reads folder/results.json.

    Raises:
      FileNotFoundError: if the folder holds none.
      ValueError: if it is not a list of objects with the fields of `Row`.
    """
    path = paths.of(folder) / "results.json"
    if not path.is_file():
        raise UserFileNotFoundError(f"{path} does not exist, run an evaluation first")
    try:
        return [Row(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold a list of results: {error}") from error


def write_predictions(folder: str | os.PathLike, task: str, length: str, memory: str,
                      rows: Iterable[tuple[str, str, str]], prompt: TaskPrompt,
                      max_new_tokens: int) -> Path:
    """Writes the (target, output, question) of each sample, and the prompt that was used.

    Returns:
      The path of the CSV, folder/TASK_LENGTH_instruction_yes_..._chat_template_no.csv with "no"
      for a part that the prompt leaves out, or folder/reset/... for memory "reset"; the JSON
      beside it differs in the suffix.
    """
    if memory not in MEMORY:
        raise UserError(f"memory is {memory!r}, must be one of {MEMORY}")
    parts = "_".join(f"{part}_{'yes' if getattr(prompt, part) else 'no'}" for part in PARTS)
    folder = paths.of(folder) / "reset" if memory == "reset" else paths.of(folder)
    path = folder / f"{task}_{length}_{parts}_chat_template_no.csv"
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("target", "output", "question"))
        writer.writerows(rows)
    asked = {"prompt": dataclasses.asdict(prompt) | {"chat_template": False},
             "generate_kwargs": GREEDY | {"max_new_tokens": max_new_tokens}}
    write_text(path.with_suffix(".json"), json.dumps(asked, indent=4) + "\n")
    return path


def _natural(name: str) -> list:
    """A sort key that puts qa2 before qa10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
