"""A comparison as a table like the LM2 paper's Table 1, and as the Markdown page around it."""

from collections.abc import Iterable, Sequence

from lm2_jax.report import paper
from lm2_jax.report.comparison import Comparison, Rates, means, never_right
from lm2_jax.report.table import Table, count_range, percent, spread

METRIC_NAMES = {"exact_match": "exact match", "accuracy": "the benchmark's metric"}
_NAMES = 2  # columns of text before those of numbers
_MARK = "†"


def results(comparison: Comparison, with_paper: bool = False) -> Table:
    """A section for each length: every model, the constant answer, and the paper if wanted."""
    marked = comparison.metric == "accuracy"
    tasks = [task + _MARK * (marked and bool(never_right(task))) for task in comparison.tasks]
    return Table(["length", "model", *tasks, "Avg", "seeds", "n"],
                 [_section(comparison, lengths, with_paper) for lengths in comparison.blocks()],
                 _NAMES)


def terminal(comparison: Comparison, with_paper: bool, width: int):
    """The table for the terminal; without the columns of tasks if it is wider than `width`."""
    table, title = results(comparison, with_paper), f"{METRIC_NAMES[comparison.metric]}, %"
    if table.width > width:
        first, last = _NAMES, _NAMES + len(comparison.tasks)
        table = table.columns(i for i in range(table.num_columns) if not first <= i < last)
        title += " (each task: in report.md)"
    return table.terminal(title)


def page(comparison: Comparison, with_paper: bool, figures: Sequence[str]) -> str:
    """report.md: the table with its notes, the runs, what differs between them, the figures."""
    parts = [
        f"# {title(comparison)}",
        f"Share of right answers by {METRIC_NAMES[comparison.metric]}, %. With several seeds: "
        "their mean (lowest-highest).",
        results(comparison, with_paper).markdown(),
        "\n".join(f"- {note}" for note in notes(comparison, with_paper)),
        "## Runs",
        _runs(comparison).markdown(),
        "## What differs between the models",
        _differences(comparison),
    ]
    if figures:
        parts += ["## Figures", *(f"![{name.removesuffix('.png')}]({name})" for name in figures)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def title(comparison: Comparison) -> str:
    """Of the page and of the plot."""
    exact = comparison.metric == "exact_match"
    return f"{'Exact match' if exact else 'Benchmark accuracy'} vs context length"


def notes(comparison: Comparison, with_paper: bool) -> list[str]:
    """What a reader must know of the numbers, a line each."""
    tasks, common = comparison.tasks, comparison.common_tasks
    lines = ["n: samples per task and length, for each seed.",
             "constant answer: the highest share that one and the same answer to all samples can "
             "reach, by exact match."]
    if any(group.rows(tasks, comparison.lengths, "reset") for group in comparison.groups
           if group.has_memory):
        lines.append("memory wiped: the same weights, with the memory reset at each segment.")
    if unfinished := [run.workdir for group in comparison.groups for run in group.runs
                 if run.unfinished]:
        lines.append(f"The evaluation of {', '.join(unfinished)} is not finished; the same lm2 "
                     "eval command continues it.")
    if common != tasks:
        lines.append(f"Avg: over the tasks that every model has, {', '.join(common) or 'none'}.")
    blocks = comparison.blocks()
    shown = {length for block in blocks for length in block}
    for block in blocks:
        if _heading(block) != block[0]:
            left_out = [length for length in comparison.lengths if length not in shown]
            lines.append(f"{_heading(block)}: mean over {', '.join(block)}" + (
                f"; {', '.join(left_out)} left out, which not every model has."
                if left_out else "."))
    if comparison.metric == "accuracy":
        lines += [f"{_MARK} {task}: the benchmark's metric never counts "
                  f"{' or '.join(map(repr, answers))} as right, since another label is a part of "
                  "it." for task in tasks if (answers := never_right(task))]
    return lines + (_paper_notes(comparison) if with_paper else [])


def _paper_notes(comparison: Comparison) -> list[str]:
    series = paper.beside(comparison.common_tasks)
    at = {length for each in series for length in each.rates}
    if not at & {_paper_length(block) for block in comparison.blocks()}:
        return [f"The paper ({paper.SOURCE}) has no results of these tasks at these lengths."]
    lines = [f"(paper): the paper's own results ({paper.SOURCE}), {series[0].average}, from its "
             "own evaluation; not reproduced here."]
    if paper.LONG in at:
        lines.append("(paper) at >= 8k: its mean over its lengths from 8K on.")
    return lines + [f"{each.name}: {each.remark}." for each in series if each.remark]


def _section(comparison: Comparison, lengths: tuple[str, ...], with_paper: bool
             ) -> list[list[str]]:
    def rates(name: str, runs: list[Rates]) -> list[str]:
        cells = [spread(means(runs, [task], lengths)) for task in comparison.tasks]
        return [name, *cells, spread(means(runs, comparison.common_tasks, lengths))]

    lines = []
    for group in comparison.groups:
        controls = {"carried": group.name, "reset": f"{group.name}, memory wiped"}
        for memory in ("carried", "reset") if group.has_memory else ("carried",):
            if rows := group.rows(comparison.tasks, lengths, memory):
                lines.append([*rates(controls[memory], comparison.rates(group, memory)),
                              str(len(group.runs)), count_range([row.n for row in rows])])
    lines.append([*rates("constant answer", comparison.constant), "", ""])
    if with_paper:
        lines += [[each.name, *("-" for _ in comparison.tasks), percent(rate), "", ""]
                  for each in paper.beside(comparison.common_tasks)
                  if (rate := each.rates.get(_paper_length(lengths))) is not None]
    return [[_heading(lengths) if i == 0 else "", *line] for i, line in enumerate(lines)]


def _heading(lengths: tuple[str, ...]) -> str:
    return lengths[0] if len(lengths) == 1 else ">= 8k"


def _paper_length(lengths: tuple[str, ...]) -> str:
    return lengths[0] if len(lengths) == 1 else paper.LONG


def _runs(comparison: Comparison) -> Table:
    header = ["model", "seeds", "step", "parameters", "longest trained row (tokens)", "workdirs"]
    rows = [[
        group.name,
        ", ".join(str(run.config.seed) for run in group.runs),
        _stored(run.step for run in group.runs),
        _stored(run.parameters for run in group.runs),
        f"{group.trained_tokens:,}",
        ", ".join(run.workdir for run in group.runs)] for group in comparison.groups]
    return Table(header, [rows], len(header))


def _differences(comparison: Comparison) -> str:
    rows = [[key, *map(str, values)] for key, values in comparison.differing().items()]
    if not rows:
        return "Nothing in their configs." if len(comparison.groups) > 1 else "One model only."
    return Table(["key", *(group.name for group in comparison.groups)], [rows]).markdown()


def _stored(values: Iterable[int | None]) -> str:
    known = [value for value in values if value is not None]
    return count_range(known) if known else "-"
