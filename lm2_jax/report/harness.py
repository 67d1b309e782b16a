"""Tables of the results of lm-evaluation-harness."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lm2_jax.report.table import Table, percent

# MMLU as in Table 2 of the LM2 paper: by subject group, and by the level that a subject's name
# begins with; subjects without one are general knowledge.
GROUPS = {"stem": "STEM", "humanities": "humanities", "social_sciences": "social sciences",
          "other": "others"}
LEVELS = {"high_school": "high school", "college": "college", "professional": "professional"}
GENERAL = "general knowledge"
_PREFIX = "mmlu_"


class Value(NamedTuple):
    """One metric of a task, with its standard error if there is one."""

    task: str
    metric: str
    value: float
    stderr: float | None


def values(results: Mapping[str, Any], task: str) -> Iterator[Value]:
    """The metrics of a task or group, by the harness's results."""
    found = results["results"].get(task) or results.get("groups", {}).get(task, {})
    for key, value in found.items():
        name, _, used = key.partition(",")
        if name.endswith("_stderr") or not used or not isinstance(value, int | float):
            continue
        stderr = found.get(f"{name}_stderr,{used}")
        yield Value(task, name if used == "none" else f"{name} ({used})", value,
                    stderr if isinstance(stderr, float) and math.isfinite(stderr) else None)


def table(results: Mapping[str, Any]) -> Table:
    """A line for each metric of each task; groups come first, in sections of their own."""
    groups = list(results.get("groups", {}))
    tasks = [name for name in results["results"] if name not in groups]
    sections = [[row for name in names for row in _rows(results, name)]
                for names in (groups, tasks)]
    return Table(["task", "metric", "n-shot", "samples", "value", "std. error"],
                 [section for section in sections if section], 2)


def _rows(results: Mapping[str, Any], name: str) -> Iterator[list[str]]:
    samples = results.get("n-samples", {}).get(name, {}).get("effective")
    shots = results.get("n-shot", {}).get(name)
    for number, value in enumerate(values(results, name)):
        first = [name, value.metric, "-" if shots is None else str(shots),
                 f"{samples:,}" if samples else "-"]
        yield [*(first if number == 0 else ["", value.metric, "", ""]), f"{value.value:.4f}",
               "-" if value.stderr is None else f"{value.stderr:.4f}"]


def mmlu(results: Mapping[str, Any]) -> Table | None:
    """MMLU's accuracy by subject group and by level, and over all; None without such tasks.

    Each figure is over all questions of its subjects. A subject's group is that of the harness's
    task files, which give it as a tag.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for name, tags in results.get("tags", {}).items():
        group = _group(tags)
        right = next((value.value for value in values(results, name) if value.metric == "acc"),
                     None)
        if group is None or right is None or not name.startswith(_PREFIX):
            continue
        subject = name.removeprefix(_PREFIX)
        level = next((title for prefix, title in LEVELS.items() if subject.startswith(prefix)),
                     GENERAL)
        for title in (group, level, "all"):
            found.setdefault(title, []).append((right, results["n-samples"][name]["effective"]))
    if not found:
        return None

    def row(title: str) -> list[str]:
        pairs = found.get(title, [])
        count = sum(samples for _, samples in pairs)
        rate = sum(right * samples for right, samples in pairs) / count if count else None
        return [title, str(len(pairs)), f"{count:,}", percent(rate)]

    return Table(["MMLU", "subjects", "questions", "accuracy %"],
                 [list(map(row, GROUPS.values())), list(map(row, (*LEVELS.values(), GENERAL))),
                  [row("all")]], 1)


def _group(tags: Iterable[str]) -> str | None:
    """The subject group that a task's tags name, as "mmlu_stem_tasks"."""
    for tag in tags:
        name = tag.removeprefix(_PREFIX).removesuffix("_tasks")
        if tag.startswith(_PREFIX) and name in GROUPS:
            return GROUPS[name]
    return None
