"""A comparison as a table like the LM2 paper's Table 1, and as the Markdown page around it."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from lm2_jax.report import paper
from lm2_jax.report.comparison import Comparison, Line, never_right
from lm2_jax.report.style import count_text

METRIC_NAMES = {"exact_match": "exact match", "accuracy": "the benchmark's metric"}
_NAMES = 2  # columns of text before those of numbers
_MARK = "†"


def terminal_table(comparison: Comparison, with_paper: bool, width: int) -> Table:
    """The table; without the columns of tasks where these do not fit into `width`."""
    header, blocks = _content(comparison, with_paper)
    columns, title = range(len(header)), f"{METRIC_NAMES[comparison.metric]}, %"
    if sum(2 + max(len(line[i]) for line in [header, *sum(blocks, [])]) for i in columns) > width:
        columns = [i for i in columns if i < _NAMES or i >= _NAMES + len(comparison.tasks)]
        title += " (each task: in report.md)"
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
                  collapse_padding=True)
    for i in columns:
        table.add_column(Text(header[i]), justify="left" if i < _NAMES else "right",
                         overflow="fold")
    for block in blocks:
        table.add_section()
        for line in block:
            table.add_row(*(Text(line[i]) for i in columns))
    return table


def page(comparison: Comparison, with_paper: bool, figures: Sequence[str]) -> str:
    """report.md: the table with its notes, the runs, what differs between them, the figures."""
    header, blocks = _content(comparison, with_paper)
    parts = [
        "# Answers over context length",
        f"Share of right answers by {METRIC_NAMES[comparison.metric]}, %. With several seeds: "
        "their mean (lowest-highest).",
        _markdown(header, sum(blocks, []), _NAMES),
        "\n".join(f"- {note}" for note in notes(comparison, with_paper)),
        "## Runs",
        _runs(comparison),
        "## What differs between the models",
        _differences(comparison),
    ]
    if figures:
        parts += ["## Figures", *(f"![{name.removesuffix('.png')}]({name})" for name in figures)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def notes(comparison: Comparison, with_paper: bool) -> list[str]:
    """What a reader must know of the numbers, a line each."""
    tasks, common = comparison.tasks, comparison.common_tasks
    lines = ["n: samples of a task and length, of each seed.",
             "constant answer: the best that one answer to all of the same samples can reach, by "
             "exact match."]
    if begun := [run.workdir for group in comparison.groups for run in group.runs
                 if run.unfinished]:
        lines.append(f"Not finished is the evaluation of {', '.join(begun)}: the same lm2 eval "
                     "goes on with it.")
    if common != tasks:
        lines.append(f"Avg: over the tasks that every model has, {', '.join(common) or 'none'}.")
    blocks = comparison.blocks()
    long = [block for block in blocks if _title(block) != block[0]]
    shown = {length for block in blocks for length in block}
    if long:
        left_out = [length for length in comparison.lengths if length not in shown]
        lines.append(f"{_title(long[0])}: mean over {', '.join(long[0])}" + (
            f"; {', '.join(left_out)} left out, which not every model has." if left_out else "."))
    if comparison.metric == "accuracy":
        lines += [f"{_MARK} {task}: the benchmark's metric never counts "
                  f"{' or '.join(map(repr, answers))} as right, since another label is a part of "
                  "it." for task in tasks if (answers := never_right(task))]
    if with_paper:
        lines += _paper_notes(comparison)
    return lines


def _paper_notes(comparison: Comparison) -> list[str]:
    series = paper.beside(comparison.common_tasks)
    at = {length for each in series for length in each.rates}
    if not at & {_paper_length(block) for block in comparison.blocks()}:
        return [f"The paper ({paper.SOURCE}) has no figures of these tasks at these lengths."]
    lines = [f"(paper): the paper's own figures ({paper.SOURCE}), {series[0].average}, from its "
             "own evaluation; not reproduced here."]
    if paper.LONG in at:
        lines.append("(paper) at >= 8k: its mean over its lengths from 8K on.")
    return lines + [f"{each.name}: {each.remark}." for each in series if each.remark]


def _content(comparison: Comparison, with_paper: bool) -> tuple[list[str], list[list[list[str]]]]:
    """The header, and the lines of each block."""
    marked = comparison.metric == "accuracy"
    tasks = [task + _MARK * (marked and bool(never_right(task))) for task in comparison.tasks]
    header = ["length", "model", *tasks, "Avg", "seeds", "n"]
    return header, [_block(comparison, lengths, with_paper) for lengths in comparison.blocks()]


def _block(comparison: Comparison, lengths: tuple[str, ...], with_paper: bool) -> list[list[str]]:
    lines = []
    for group in comparison.groups:
        for memory in ("carried", "reset"):
            if rows := group.rows(comparison.tasks, lengths, memory):
                lines.append([*_rates(comparison, comparison.line(group, memory), lengths),
                              str(len(group.runs)), count_text([row.n for row in rows])])
    lines.append([*_rates(comparison, comparison.constant, lengths), "", ""])
    if with_paper:
        lines += [[each.name, *("-" for _ in comparison.tasks), _percent(rate), "", ""]
                  for each in paper.beside(comparison.common_tasks)
                  if (rate := each.rates.get(_paper_length(lengths))) is not None]
    return [[_title(lengths) if i == 0 else "", *line] for i, line in enumerate(lines)]


def _rates(comparison: Comparison, line: Line, lengths: Sequence[str]) -> list[str]:
    """The name, the rate of each task and the average."""
    cells = [_spread(line.means([task], lengths)) for task in comparison.tasks]
    return [line.name, *cells, _spread(line.means(comparison.common_tasks, lengths))]


def _title(lengths: tuple[str, ...]) -> str:
    return lengths[0] if len(lengths) == 1 else ">= 8k"


def _paper_length(lengths: tuple[str, ...]) -> str:
    return lengths[0] if len(lengths) == 1 else paper.LONG


def _runs(comparison: Comparison) -> str:
    header = ["model", "seeds", "step", "parameters", "longest trained row (tokens)", "workdirs"]
    rows = [[
        group.name,
        ", ".join(str(run.config.seed) for run in group.runs),
        _stored(run.step for run in group.runs),
        _stored(run.parameters for run in group.runs),
        f"{group.trained_tokens:,}",
        ", ".join(run.workdir for run in group.runs)] for group in comparison.groups]
    return _markdown(header, rows, len(header))


def _differences(comparison: Comparison) -> str:
    rows = [[key, *map(str, values)] for key, values in comparison.differing().items()]
    if not rows:
        return "Nothing in their configs." if len(comparison.groups) > 1 else "One model only."
    return _markdown(["key", *(group.name for group in comparison.groups)], rows, 1)


def _stored(values: Iterable[int | None]) -> str:
    known = [value for value in values if value is not None]
    return count_text(known) if known else "-"


def _spread(rates: Sequence[float]) -> str:
    """The mean, with the lowest and the highest of several; "-" of none."""
    if not rates:
        return "-"
    mean, low, high = map(_percent, (fmean(rates), min(rates), max(rates)))
    return mean if low == high else f"{mean} ({low}-{high})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}".replace("100.0", "100")


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]], names: int) -> str:
    rule = [":---" if index < names else "---:" for index in range(len(header))]
    escaped = [[text.replace("|", r"\|") for text in line] for line in (header, *lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (escaped[0], rule, *escaped[1:]))
