"""A comparison as PNG plots: accuracy over context length, and by capability."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from lm2_jax.report import curves, paper, style
from lm2_jax.report.capabilities import axes_of
from lm2_jax.report.comparison import LONG, Comparison, Group, means, nominal_tokens
from lm2_jax.report.comparison_tables import title
from lm2_jax.report.table import count_range

_CONSTANT = style.CONSTANT | dict(label="best constant answer")
_PAPER_MARKERS = "vX>dh"
MIN_AXES = 3  # of a radar
_NAMED_TASKS = 6  # more tasks than these are counted, not named
_NAMED_MODELS = 3  # likewise


class NotDrawn(Exception):
    """A figure was not drawn because it would be empty; the message says why."""


def plot_curves(comparison: Comparison, path: str | os.PathLike, with_paper: bool = False) -> Path:
    """Draws the mean over the common tasks at each length, one curve a model.

    Raises:
      NotDrawn: if no task is common to all models.
    """
    tasks = comparison.common_tasks
    if not tasks:
        raise NotDrawn("no task has results in every model")
    lengths = _tokens(comparison)
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    curves.draw(axes, {_seeds(group): _points(comparison, group) for group in comparison.groups},
                list(lengths.values()))
    constant = {length: values for length in lengths
                if (values := means(comparison.constant, tasks, [length]))}
    axes.plot([lengths[length] for length in constant], list(map(fmean, constant.values())),
              **_CONSTANT)
    seeds = {len(group.runs) for group in comparison.groups}
    subtitle = _count(comparison, list(lengths))
    subtitle += "; bars: 95 % interval of one seed" if 1 in seeds else ""
    subtitle += "; small dots: the seeds, around their mean" if seeds != {1} else ""
    if with_paper:
        subtitle += _draw_paper(axes, lengths, tasks)
    _draw_trained(axes, comparison.groups)
    style.length_axis(axes, lengths, [f"{tokens:,.0f}" for tokens in lengths.values()],
                      "the mean number of tokens")
    style.share_axis(axes, _metric(comparison))
    style.legend(figure)
    style.title(axes, f"{title(comparison)}: {_named(tasks)}", subtitle)
    return style.save(figure, path)


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
    figure = Figure(figsize=(8.4, 5.8), layout="constrained")
    axes = cast(PolarAxes, figure.add_subplot(projection="polar"))
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    lines = [(comparison.rates(group), style.series(i) | dict(label=_seeds(group)))
             for i, group in enumerate(comparison.groups)]
    for runs, look in [*lines, (comparison.constant, _CONSTANT)]:
        values = [fmean(means(runs, tasks, lengths)) for tasks in capabilities.values()]
        axes.plot([*angles, angles[0]], [*values, values[0]], clip_on=False, **look)
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
    style.legend(figure)
    figure.suptitle(f"Capabilities: {_metric(comparison)} (share of answers, 0 to 1)\n"
                    f"mean over {', '.join(lengths)}; {_count(comparison, lengths)}",
                    fontsize="medium")
    return style.save(figure, path)


def _points(comparison: Comparison, group: Group) -> list[curves.Point]:
    tasks, found = comparison.common_tasks, []
    for length in comparison.lengths:
        if shares := means(comparison.rates(group), tasks, [length]):
            rows = group.rows(tasks, [length])
            found.append(curves.Point(fmean(row.tokens for row in rows), shares,
                                      sum(row.n for row in rows)))
    return found


def _draw_paper(axes: Axes, lengths: dict[str, float], tasks: Sequence[str]) -> str:
    """Draws the paper's own results at these lengths, its mean of the long ones as a level.

    Returns:
      A line that says whose results they are, or "" if there are none.
    """
    long = [at for length, at in lengths.items() if nominal_tokens(length) >= LONG]
    drawn = level = ""
    for series, marker in zip(paper.beside(tasks), _PAPER_MARKERS, strict=False):
        points = [(at, series.rates[length]) for length, at in lengths.items()
                  if length in series.rates]
        look: dict[str, Any] = dict(color="0.55", linewidth=0.8, linestyle=":", marker=marker,
                                    markersize=5, markerfacecolor="white", zorder=1.5)
        if points:
            axes.plot(*zip(*points, strict=True), label=series.name, **look)
            drawn = (f"\ndotted: the paper's own results ({paper.SOURCE}), {series.average}; not "
                     "reproduced")
        if points and long and paper.LONG in series.rates:
            axes.plot([long[0], long[-1]], 2 * [series.rates[paper.LONG]], **look)
            level = "\nhorizontal: its mean over lengths from 8K on"
    return drawn + level


def _draw_trained(axes: Axes, groups: Sequence[Group]) -> None:
    """Draws a vertical line at the longest row of each training."""
    trained: dict[int, list[str]] = {}
    for group in groups:
        trained.setdefault(group.trained_tokens, []).append(group.name)
    for index, (tokens, names) in enumerate(sorted(trained.items())):
        if len(names) > _NAMED_MODELS:
            names[1:] = [f"{len(names) - 1} others"]
        whose = f" of {style.literal('; '.join(names))}" if len(trained) > 1 else ""
        axes.axvline(tokens, color="black", linestyle=(0, (1 + 5 * index, 2 + index)),
                     linewidth=1.0, zorder=1,
                     label=f"longest row in training{whose} ({tokens:,} tokens)")


def _tokens(comparison: Comparison) -> dict[str, float]:
    """The mean tokens of the common tasks at each length that has one."""
    found = {length: [row.tokens for group in comparison.groups
                      for row in group.rows(comparison.common_tasks, [length])]
             for length in comparison.lengths}
    return {length: fmean(tokens) for length, tokens in found.items() if tokens}


def _seeds(group: Group) -> str:
    seeds = f"{len(group.runs)} seed{'s' if len(group.runs) > 1 else ''}"
    return f"{style.literal(group.name)} ({seeds})"


def _metric(comparison: Comparison) -> str:
    return "exact match" if comparison.metric == "exact_match" else "benchmark's metric"


def _named(tasks: Sequence[str]) -> str:
    names = ", ".join(tasks) if len(tasks) <= _NAMED_TASKS else f"{len(tasks)} tasks"
    return names if len(tasks) == 1 else f"mean of {names}"


def _count(comparison: Comparison, lengths: Sequence[str]) -> str:
    rows = [row for group in comparison.groups
            for row in group.rows(comparison.common_tasks, lengths)]
    carried = "memory carried; " if all(group.has_memory for group in comparison.groups) else ""
    return f"{carried}n = {count_range([row.n for row in rows])} per task, length and seed"


def _wrapped(tasks: Sequence[str]) -> str:
    """Names of tasks, three a line."""
    return "\n".join(", ".join(tasks[i:i + 3]) for i in range(0, len(tasks), 3))
