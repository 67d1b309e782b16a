"""Several evaluated runs side by side: seeds of one model as a group, and what is averaged."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from lm2_jax.config import Config, files, parse_length
from lm2_jax.eval.metrics import LABELS, babilong_correct
from lm2_jax.eval.perplexity import Row as PerplexityRow
from lm2_jax.eval.perplexity import Sums
from lm2_jax.eval.results import Row, by_length, cells

METRICS = ("exact_match", "accuracy")
LONG = parse_length("8k")  # lengths from here on are averaged, as in the paper's table
Rates = dict[tuple[str, str], float]  # by task and length, 0 to 1


@dataclass(frozen=True)
class Run:
    """An evaluated workdir.

    Attributes:
      config: that it was trained with; `config.eval` is that of the evaluation.
      step: of the checkpoint that was evaluated; None if it is not stored, as `parameters`.
      parameters: the number of parameters.
      unfinished: whether the evaluation was interrupted and some rows are missing.
      perplexity: of held-out documents; the rows of BABILong are `rows`.
      documents: the sums of each of these documents.
    """

    workdir: str
    config: Config
    rows: tuple[Row, ...]
    step: int | None = None
    parameters: int | None = None
    unfinished: bool = False
    perplexity: tuple[PerplexityRow, ...] = ()
    documents: tuple[Sums, ...] = ()

    def rates(self, field: str, memory: str = "carried") -> Rates:
        """The rates in a field of the rows that have one."""
        return {(row.task, row.length): rate for row in self.rows if row.memory == memory
                and (rate := getattr(row, field)) is not None}


@dataclass(frozen=True)
class Group:
    """Runs of one model, which differ in nothing but the seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        return self.runs[0].config

    @property
    def has_memory(self) -> bool:
        """Whether there is a memory to carry or to wipe."""
        return self.config.model.memory.num_layers > 0

    @property
    def trained_tokens(self) -> int:
        """Tokens of the longest row of the curriculum."""
        config = self.config
        return max(s[1] for s in config.data.curriculum) * config.model.segment_length

    def rows(self, tasks: Iterable[str], lengths: Iterable[str], memory: str = "carried"
             ) -> list[Row]:
        """The rows of all seeds."""
        return [row for run in self.runs for row in run.rows
                if row.task in tasks and row.length in lengths and row.memory == memory]


def means(runs: Iterable[Rates], tasks: Iterable[str], lengths: Iterable[str]) -> list[float]:
    """The mean over tasks and lengths, of each run that has all of these cells."""
    wanted = [(task, length) for task in tasks for length in lengths]
    return [fmean(run[cell] for cell in wanted) for run in runs
            if wanted and run.keys() >= set(wanted)]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs under one metric.

    Attributes:
      metric: one of METRICS. Every rate is by this metric, except that the constant answer is
        scored by exact match.
    """

    groups: tuple[Group, ...]
    metric: str = "exact_match"

    @functools.cached_property
    def tasks(self) -> list[str]:
        """Every task that has a result, in natural order."""
        return list(dict.fromkeys(cell.any.task for cell in self._grid))

    @functools.cached_property
    def common_tasks(self) -> list[str]:
        """The tasks that every group has at some length; averages are over these only."""
        return [task for task in self.tasks
                if all(task in {cell[0] for run in self.rates(group) for cell in run}
                       for group in self.groups)]

    @functools.cached_property
    def lengths(self) -> list[str]:
        """Every length that has a result, in order of tokens."""
        return [column[0].any.length for column in by_length(self._grid)]

    @functools.cached_property
    def common_lengths(self) -> list[str]:
        """The lengths at which every group has all of the common tasks."""
        return [length for length in self.lengths
                if all(means(self.rates(group), self.common_tasks, [length])
                       for group in self.groups)]

    @property
    def _grid(self):
        rows = [row for group in self.groups for run in group.runs for row in run.rows
                if row.memory == "carried"]
        return cells({(row.task, row.length): row for row in rows}.values())

    def rates(self, group: Group, memory: str = "carried") -> list[Rates]:
        """The rates of each seed."""
        return [run.rates(self.metric, memory) for run in group.runs]

    @property
    def constant(self) -> list[Rates]:
        """The best constant answer to each run's own samples."""
        return [run.rates("constant_answer") for group in self.groups for run in group.runs]

    def blocks(self) -> list[tuple[str, ...]]:
        """The lengths of each block of the table: one each, but those from 8k on together.

        The long block has the lengths that are common to all groups with any long length. If none
        is common, each long length has a block of its own.
        """
        long = [length for length in self.lengths if nominal_tokens(length) >= LONG]
        having = [{row.length for row in group.rows(self.tasks, long)} for group in self.groups]
        shared = set(long).intersection(*filter(None, having))
        short = [(length,) for length in self.lengths if length not in long]
        if not shared:
            return [*short, *((length,) for length in long)]
        return [*short, tuple(length for length in long if length in shared)]

    def differing(self) -> dict[str, list[object]]:
        """{key of the config: its value in each group}, where they differ; without the seed."""
        first = self.groups[0].config
        keys = {line.split(": ")[0] for group in self.groups[1:]
                for line in files.differences(first, group.config, ignore=("seed",))}
        values = [files.flat(group.config) for group in self.groups]
        return {key: [flat.get(key) for flat in values] for key in sorted(keys)}


def nominal_tokens(length: str) -> int:
    """Tokens that the name of a length stands for; 0 for a name that is not the benchmark's."""
    try:
        return parse_length(length)
    except ValueError:
        return 0


def never_right(task: str) -> list[str]:
    """The answers of a task that the benchmark's metric counts as wrong even when given alone."""
    return [label for label in LABELS.get(task, ()) if not babilong_correct(task, label, label, "")]
