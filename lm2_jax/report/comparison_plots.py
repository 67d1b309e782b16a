"""A comparison as PNG plots: accuracy over context length, and by capability.

Markers and line styles tell the models apart where colours do not.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm2_jax.eval.metrics import wilson
from lm2_jax.report import paper
from lm2_jax.report import style as figures
from lm2_jax.report.capabilities import axes_of
from lm2_jax.report.comparison import LONG, Comparison, Group, nominal_tokens

# Seven markers and four line styles have no common divisor: 28 models before two look alike.
_MARKERS = "os^D<*P"
_LINES = ("-", "--", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)))
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
_CONSTANT = dict(color="0.3", linestyle="-.", marker="x", linewidth=1.2,
                 label="constant answer, the best to the same samples")
_PAPER_MARKERS = "vX>dh"
MIN_AXES = 3  # of a radar
_NAMED_TASKS = 6  # more tasks than these are counted, not named


class NotDrawn(Exception):
    """Why a figure would show nothing."""


def plot_curves(comparison: Comparison, path: str | os.PathLike, with_paper: bool = False) -> Path:
    """Draws the mean over the common tasks at each length, one line a model.

    Bars are Wilson's 95 % interval of all answers for one seed, lowest and highest for several.

    Raises:
      NotDrawn: if no task is common to all models.
    """
    tasks = comparison.common_tasks
    if not tasks:
        raise NotDrawn("no task has results in every model")
    x = _tokens(comparison)
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    for index, group in enumerate(comparison.groups):
        _draw_group(axes, comparison, group, _style(index))
    constant = {length: fmean(comparison.constant.means(tasks, [length])) for length in x
                if comparison.constant.means(tasks, [length])}
    axes.plot([x[length] for length in constant], list(constant.values()), **_CONSTANT)
    subtitle = _count(comparison, list(x))
    if with_paper:
        subtitle += _draw_paper(axes, x, tasks)
    _draw_trained(axes, comparison.groups)
    if len(x) > 1:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(x.values()), [f"{length}\n{at:,.0f}" for length, at in x.items()])
    axes.set_xlabel("context length: its name, and below it the mean number of tokens"
                    + (" (log2 scale)" if len(x) > 1 else ""))
    axes.set_ylabel(f"{_metric(comparison)} (0 to 1)")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    labels = axes.get_legend_handles_labels()[1]
    figure.set_size_inches(7.6, 5.0 + 0.2 * len(labels) / _columns(labels))
    _legend(figure)
    figures.title(axes, f"Answers over context length: {_named(tasks)}", subtitle)
    return figures.save(figure, path)


def plot_radar(comparison: Comparison, path: str | os.PathLike) -> Path:
    """Draws the mean of each capability, over the lengths that all models have.

    Raises:
      NotDrawn: if fewer than three capabilities have results in every model.
    """
    lengths = comparison.common_lengths
    capabilities = axes_of(comparison.common_tasks) if lengths else {}
    if len(capabilities) < MIN_AXES:
        raise NotDrawn(f"{len(capabilities)} of the capabilities have results in every model, a "
                       f"radar needs {MIN_AXES}")
    angles = np.linspace(0, 2 * math.pi, len(capabilities), endpoint=False).tolist()
    figure = Figure(figsize=(8.4, 6.4), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)

    lines = [(comparison.line(group), _style(i) | dict(label=_seeds(group)))
             for i, group in enumerate(comparison.groups)]
    lines.append((comparison.constant, _CONSTANT))
    for line, style in lines:
        values = [fmean(line.means(tasks, lengths)) for tasks in capabilities.values()]
        axes.plot([*angles, angles[0]], [*values, values[0]], clip_on=False, **style)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["0.25", "0.5", "0.75", "1"], fontsize="small",
                    color="0.3")
    axes.set_rlabel_position(180 / len(capabilities))
    axes.set_xticks(angles, [f"{name}\n{_wrapped(tasks)}" for name, tasks in capabilities.items()])
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side, height = round(math.sin(angle), 9), round(math.cos(angle), 9)
        label.set(ha="center" if not side else "left" if side > 0 else "right",
                  va="bottom" if height > 0.9 else "top" if height < -0.4 else "center")
    axes.tick_params(axis="x", pad=2)
    _legend(figure)
    figure.suptitle(f"Capabilities: {_metric(comparison)} (share of answers, 0 to 1)\n"
                    f"mean over {', '.join(lengths)}; {_count(comparison, lengths)}",
                    fontsize="medium")
    return figures.save(figure, path)


def _draw_group(axes: Axes, comparison: Comparison, group: Group, style: dict) -> None:
    tasks = comparison.common_tasks
    points = []
    for length in comparison.lengths:
        if means := comparison.line(group).means(tasks, [length]):
            rows = group.rows(tasks, [length])
            low, high = (min(means), max(means)) if len(means) > 1 else wilson(
                means[0] * sum(row.n for row in rows), sum(row.n for row in rows))
            points.append((fmean(row.tokens for row in rows), fmean(means), low, high))
    what = "mean, lowest and highest" if len(group.runs) > 1 else "95 % interval"
    if points:
        x, y, low, high = np.array(points).T
        axes.plot(x, y, label=f"{_seeds(group)}: {what}", **style)
        axes.errorbar(x, y, np.maximum(0, [y - low, high - y]), fmt="none", capsize=3,
                      elinewidth=1, ecolor=style["color"])


def _draw_paper(axes: Axes, x: dict[str, float], tasks: Sequence[str]) -> str:
    """The paper's own figures at the lengths that are drawn, its mean of the long ones as a level;
    returns a line that says whose they are, or "" if there are none."""
    long = [at for length, at in x.items() if nominal_tokens(length) >= LONG]
    drawn = level = ""
    for series, marker in zip(paper.beside(tasks), _PAPER_MARKERS, strict=False):
        points = [(at, series.rates[length]) for length, at in x.items() if length in series.rates]
        style = dict(color="0.55", linewidth=0.8, linestyle=":", marker=marker, markersize=5,
                     markerfacecolor="white", zorder=1.5)
        if points:
            axes.plot(*zip(*points, strict=True), label=series.name, **style)
            drawn = (f"\ndotted: the paper's own figures ({paper.SOURCE}), {series.average}; not "
                     "reproduced")
        if points and long and paper.LONG in series.rates:
            axes.plot([long[0], long[-1]], 2 * [series.rates[paper.LONG]], **style)
            level = "; level: its mean from 8K on"
    return drawn + level


def _draw_trained(axes: Axes, groups: Sequence[Group]) -> None:
    """A vertical line at each longest trained length."""
    trained: dict[int, list[str]] = {}
    for group in groups:
        trained.setdefault(group.trained_tokens, []).append(group.name)
    for index, (tokens, names) in enumerate(sorted(trained.items())):
        whose = f" of {', '.join(names)}" if len(trained) > 1 else ""
        axes.axvline(tokens, color="black", linestyle=(0, (1 + 5 * index, 2 + index)),
                     linewidth=1.0, zorder=1,
                     label=f"longest trained length{whose} ({tokens:,} tokens)")


def _tokens(comparison: Comparison) -> dict[str, float]:
    """The mean tokens of the common tasks at each length that has one."""
    found = {length: [row.tokens for group in comparison.groups
                      for row in group.rows(comparison.common_tasks, [length])]
             for length in comparison.lengths}
    return {length: fmean(tokens) for length, tokens in found.items() if tokens}


def _legend(figure: Figure) -> None:
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    figure.legend(loc="outside lower center", ncols=_columns(labels), fontsize="small",
                  frameon=False, handlelength=3.6)


def _columns(labels: list[str]) -> int:
    """Of the legend: two where even the longest label fits into half of the width."""
    return 2 if max(map(len, labels)) <= 45 else 1


def _style(index: int) -> dict:
    return dict(color=_COLORS[index % len(_COLORS)], linestyle=_LINES[index % len(_LINES)],
                marker=_MARKERS[index % len(_MARKERS)], linewidth=1.8, zorder=3)


def _seeds(group: Group) -> str:
    return f"{group.name} ({len(group.runs)} seed{'s' if len(group.runs) > 1 else ''})"


def _metric(comparison: Comparison) -> str:
    return "exact match" if comparison.metric == "exact_match" else "benchmark's metric"


def _named(tasks: Sequence[str]) -> str:
    names = ", ".join(tasks) if len(tasks) <= _NAMED_TASKS else f"{len(tasks)} tasks"
    return names if len(tasks) == 1 else f"mean of {names}"


def _count(comparison: Comparison, lengths: Sequence[str]) -> str:
    rows = [row for group in comparison.groups
            for row in group.rows(comparison.common_tasks, lengths)]
    counts = figures.count_text([row.n for row in rows])
    return f"memory carried; n = {counts} a task, length and seed"


def _wrapped(tasks: Sequence[str]) -> str:
    """Names of tasks, three a line."""
    return "\n".join(", ".join(tasks[i:i + 3]) for i in range(0, len(tasks), 3))
