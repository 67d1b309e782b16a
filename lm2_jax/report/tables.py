"""The tables of one run: its results, and the settings it was started with."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table as RichTable

from lm2_jax.eval.metrics import wilson
from lm2_jax.eval.results import Cell, Row, by_length, cells
from lm2_jax.report.table import Table, percent

_OFFICIAL = "official\nmetric %"
_WIPED = "memory\nwiped %"


def results(rows: Sequence[Row]) -> Table:
    """One row for each task and length; rates in per cent, with Wilson's 95 % interval.

    Several tasks are averaged at the lengths where all of them were evaluated. "memory wiped" is
    the exact match of the reset rows, a column only if there are any. The benchmark's own metric
    has a column only where it differs from the exact match, and a note where no answer can be
    right by it.
    """
    grid = cells(rows)
    num_tasks = len({cell.any.task for cell in grid})
    columns = {
        "task": lambda name, group: name,
        "length": lambda name, group: group[0].any.length,
        "tokens": lambda name, group: f"{fmean(cell.any.tokens for cell in group):,.0f}",
        "segments": lambda name, group: segments_text(group),
        "n": lambda name, group: f"{sum(cell.any.n for cell in group):,}",
        "exact match %\n(95 % interval)": lambda name, group: _with_interval(group),
        _OFFICIAL: lambda name, group: _mean([cell.carried for cell in group], "accuracy"),
        _WIPED: lambda name, group: _mean([cell.reset for cell in group], "exact_match"),
        "constant\nanswer %": lambda name, group: _mean([cell.any for cell in group],
                                                        "constant_answer"),
    }
    if not any(c.carried and c.carried.accuracy not in (None, c.carried.exact_match)
               for c in grid):
        del columns[_OFFICIAL]
    if not any(cell.reset for cell in grid):
        del columns[_WIPED]

    def line(name: str, group: list[Cell]) -> list[str]:
        return [text(name, group) for text in columns.values()]

    means = [line("mean", column) for column in by_length(grid) if 1 < len(column) == num_tasks]
    lines = [line(cell.any.task, [cell]) for cell in grid]
    return Table(list(columns), [lines, means], text_columns=2, note=_unscorable(grid))


def without_wiped(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of a model without a memory, for which wiping it is no control; if there are no
    others, all of them."""
    return [row for row in rows if row.memory == "carried"] or rows


def settings(title: str, values: Mapping[str, object]) -> RichTable:
    """Names and values, for the terminal."""
    rows = [[name, f"{value:,}" if type(value) is int else str(value)]
            for name, value in values.items()] or [["", "nothing"]]
    return Table([], [rows], text_columns=2).terminal(title)


def segments_text(group: Sequence[Cell]) -> str:
    """The mean number of segments, with one decimal below 100."""
    mean = fmean(cell.any.segments for cell in group)
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.1f}"


def _unscorable(grid: Sequence[Cell]) -> str:
    counts = [f"{cell.any.unscorable} of {cell.any.n} in {cell.any.task} {cell.any.length}"
              for cell in grid if cell.any.unscorable]
    return ("The official metric finds every answer wrong where the right one contains another "
            f"label, as \"none\" contains \"one\": {', '.join(counts)}.") if counts else ""


def _mean(rows: Sequence[Row | None], field: str) -> str:
    """The mean of a rate in per cent; "-" if it is missing in any cell."""
    rates = [getattr(row, field) for row in rows if row]
    return percent(None if len(rates) < len(rows) or None in rates else fmean(rates))


def _with_interval(group: Sequence[Cell]) -> str:
    rows = [cell.carried for cell in group if cell.carried]
    if len(rows) < len(group):
        return "-"
    n, match = sum(row.n for row in rows), fmean(row.exact_match for row in rows)
    low, high = wilson(match * n, n)
    return f"{percent(match)} ({percent(low)}-{percent(high)})"
