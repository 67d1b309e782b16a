"""The results that the LM2 paper itself reports, for comparison; none is reproduced here."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_FIGURES = json.loads(Path(__file__).with_name("paper_figures.json").read_text("utf-8"))
SOURCE = _FIGURES["source"]
LONG = ">=8k"  # the paper's mean over its lengths from 8K on


@dataclass(frozen=True)
class Series:
    """One model of the paper over context length.

    Attributes:
      tasks: the tasks that the paper averages over.
      remark: where the paper has the results, or why they are doubtful; "" for none.
      rates: by length ("4k"), 0 to 1; LONG has the mean over the long lengths.
    """

    model: str
    tasks: tuple[str, ...]
    remark: str
    rates: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.model} (paper)"

    @property
    def average(self) -> str:
        first, *_, last = self.tasks[0], *self.tasks
        return first if first == last else f"mean of {first} to {last}"


_SERIES = [Series(entry["model"], tuple(entry["tasks"]), entry["remark"],
                  {length: value / 100 for length, value in entry["percent"].items()})
           for entry in _FIGURES["series"]]


def beside(tasks: Collection[str]) -> list[Series]:
    """The series to compare a mean over `tasks` with.

    Their tasks include all of `tasks` and as few others as possible.
    """
    including = [series for series in _SERIES if set(tasks) <= set(series.tasks)]
    fewest = min((len(series.tasks) for series in including), default=0)
    return [series for series in including if len(series.tasks) == fewest]
