"""Results and settings as tables, for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from lm2_jax.eval.metrics import wilson
from lm2_jax.eval.results import Cell, Row, by_length, cells

_OFFICIAL = "official\nmetric %"
_HEADER = ("task", "length", "tokens", "segments", "n", "exact match %\n(95 % interval)",
           _OFFICIAL, "memory\nwiped %", "constant\nanswer %")
_TEXT_COLUMNS = 2


def results_table(rows: Sequence[Row]) -> Table:
    """One line for each task and length; rates in per cent.

    Several tasks are averaged at the lengths where all of them were evaluated.

    The interval is Wilson's. "memory wiped" is the exact match of the reset row. The benchmark's
    own metric has a column only where it differs from the exact match, and a footnote where it
    cannot be right.
    """
    header, lines, means = _content(rows)
    note = _footnote(rows)
    table = Table(title="Answers over context length", box=box.SIMPLE_HEAD,
                  caption=Text(note) if note else None, caption_justify="left",
                  show_edge=False,
                  pad_edge=False, collapse_padding=True)
    for index, name in enumerate(header):
        table.add_column(name, overflow="fold",
                         justify="left" if index < _TEXT_COLUMNS else "right")
    for line in lines:
        table.add_row(*map(Text, line))
    table.add_section()
    for line in means:
        table.add_row(*map(Text, line), style="bold")
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """The lines of `results_table` as a Markdown table, and its footnote."""
    header, lines, means = _content(rows)
    header = [name.replace("\n", " ") for name in header]
    rule = [":---" if index < _TEXT_COLUMNS else "---:" for index in range(len(header))]
    escaped = [[text.replace("|", r"\|") for text in line] for line in (*lines, *means)]
    note = _footnote(rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *escaped)) + (
        f"\n{note}\n" if note else "")


def config_table(title: str, values: Mapping[str, object]) -> Table:
    """Names and values, two columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in values.items():
        table.add_row(Text(name), Text(f"{value:,}" if type(value) is int else str(value)))
    return table


def _content(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The header, the lines of the cells and the lines of the means."""
    grid = cells(rows)
    num_tasks = len({cell.any.task for cell in grid})
    official = any(c.carried and c.carried.accuracy not in (None, c.carried.exact_match)
                   for c in grid)
    header = [name for name in _HEADER if name != _OFFICIAL or official]
    lines = [_line(cell.any.task, [cell], official) for cell in grid]
    means = [_line("mean", column, official)
             for column in by_length(grid) if 1 < len(column) == num_tasks]
    return header, lines, means


def _footnote(rows: Sequence[Row]) -> str:
    """For how many samples no answer is right by the benchmark's metric; "" if for none."""
    counts = [f"{cell.any.unscorable} of {cell.any.n} in {cell.any.task} {cell.any.length}"
              for cell in cells(rows) if cell.any.unscorable]
    return ("The official metric finds every answer wrong where the right one contains another "
            f"label, as \"none\" contains \"one\": {', '.join(counts)}.") if counts else ""


def _line(task: str, group: list[Cell], official: bool) -> list[str]:
    """The texts of one line: rates averaged over the cells, the interval from all samples."""
    rows = [cell.any for cell in group]
    carried = [cell.carried for cell in group]
    segments = fmean(row.segments for row in rows)
    return [
        task,
        rows[0].length,
        f"{fmean(row.tokens for row in rows):,.0f}",
        f"{segments:,.0f}" if segments >= 100 else f"{segments:.1f}",
        f"{sum(row.n for row in rows):,}",
        _with_interval(carried),
        *([_mean(carried, "accuracy")] if official else []),
        _mean([cell.reset for cell in group], "exact_match"),
        _mean(rows, "constant_answer"),
    ]


def _mean(rows: list[Row | None], field: str) -> str:
    """The mean of a rate, or "-" if a row lacks it: no mean of some beside a mean of all."""
    rates = [getattr(row, field, None) for row in rows]
    return "-" if None in rates else _percent(fmean(rates))


def _with_interval(rows: list[Row | None]) -> str:
    if not all(rows):
        return "-"
    n, match = sum(row.n for row in rows), fmean(row.exact_match for row in rows)
    low, high = wilson(match * n, n)
    return f"{_percent(match)} ({_percent(low)}-{_percent(high)})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}".replace("100.0", "100")
