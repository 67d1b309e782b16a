"""Results and training as PNG plots, readable in black and white."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lm2_jax.errors import UserError
from lm2_jax.eval.metrics import wilson
from lm2_jax.eval.results import Cell, Row, by_length, cells
from lm2_jax.report.style import count_text
from lm2_jax.report.style import save as _save
from lm2_jax.report.style import title as _title

_THIN_LINES = 5  # more tasks than these have no line of their own


def plot_heat_map(rows: Sequence[Row], path: str | os.PathLike) -> Path:
    """Draws the exact match with the memory carried, tasks by lengths."""
    grid = cells(rows)
    tasks = list(dict.fromkeys(cell.any.task for cell in grid))
    columns = by_length(grid)
    values = np.full((len(tasks), len(columns)), np.nan)
    for x, column in enumerate(columns):
        for carried in filter(None, (cell.carried for cell in column)):
            values[tasks.index(carried.task), x] = carried.exact_match
    figure = Figure(figsize=(max(4.8, 2.2 + 0.72 * len(columns)), 1.9 + 0.42 * len(tasks)),
                    layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.9")
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        axes.text(x, y, "-" if math.isnan(value) else f"{value:.2f}", ha="center", va="center",
                  color="white" if value < 0.5 else "black")
    axes.set_xticks(range(len(columns)), [_tick(column) for column in columns])
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xlabel("context length (tokens)\nand mean number of segments")
    axes.set_ylabel("task")
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="exact match (0 to 1)")
    _title(axes, "Exact match by task and context length", f"memory carried; {_count(grid)}")
    return _save(figure, path)


def plot_curves(rows: Sequence[Row], path: str | os.PathLike, title: str | None = None,
                trained_tokens: int | None = None) -> Path:
    """Draws the exact match over context length: memory carried, wiped, and constant answer.

    Several tasks are averaged where all of them were evaluated; up to five have a thin line
    each. The band is Wilson's 95 % interval of all samples of a length.

    Args:
      trained_tokens: the longest trained length, marked by a vertical line.
    """
    grid = cells(rows)
    tasks = list(dict.fromkeys(cell.any.task for cell in grid))
    columns = by_length(grid)
    x = [fmean(cell.any.tokens for cell in column) for column in columns]
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _draw_means(axes, x, columns, len(tasks))
    if 1 < len(tasks) <= _THIN_LINES:
        _draw_tasks(axes, tasks, x, columns)
    if trained_tokens is not None:
        axes.axvline(trained_tokens, color="black", linestyle=":", linewidth=1.2,
                     label=f"longest trained length ({trained_tokens:,} tokens)")
    if len(columns) > 1:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [_tick(column) for column in columns])
    scale = ", log scale" if len(columns) > 1 else ""
    axes.set_xlabel(f"context length (tokens{scale}); below it, the mean number of segments")
    axes.set_ylabel("exact match (share of answers, 0 to 1)")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    what = ", ".join(tasks) if len(tasks) <= _THIN_LINES else f"{len(tasks)} tasks"
    _title(axes, title or f"Answers over context length: {what}", _count(grid))
    return _save(figure, path)


def plot_training(steps: Sequence[int], losses: Sequence[float], accuracies: Sequence[float],
                  path: str | os.PathLike, stages: Sequence[tuple[int, int]]) -> Path:
    """Draws loss and answer accuracy over steps, raw and smoothed.

    Args:
      steps: the steps the values belong to; of a step that comes twice, as after a resume, the
        last value counts.
      losses, accuracies: one for each step; NaN where there is none.
      stages: (first step, segments in a sequence) of each stage of the curriculum, in order.
    """
    if not len(steps) == len(losses) == len(accuracies) or not len(steps):
        raise UserError(f"plot_training needs as many losses and accuracies as steps, got "
                         f"{len(losses)} and {len(accuracies)} for {len(steps)}")
    last = {step: values for step, *values in zip(steps, losses, accuracies, strict=True)}
    x = np.array(sorted(last))
    values = np.array([last[step] for step in x.tolist()], float)
    names = ["loss (nats per token)", "answer accuracy (0 to 1)"]
    shown = [i for i in range(len(names)) if not np.isnan(values[:, i]).all()]
    figure = Figure(figsize=(7.2, 1.2 + 2.2 * len(shown)), layout="constrained")
    figure.suptitle("Training")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, i in zip(panels, shown, strict=True):
        known = ~np.isnan(values[:, i])
        _draw_smoothed(axes, x[known], values[known, i], [first for first, _ in stages])
        axes.set_ylabel(names[i])
        axes.set_ylim(*((0, None) if i == 0 else (-0.02, 1.04)))
        axes.grid(axis="y", color="0.9")
    panels[-1].set_xlabel("training step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(panels[0].get_lines()) > 1:
        panels[0].legend(loc="upper right", fontsize="small")
    _draw_stages(panels, [stage for stage in stages if stage[0] <= x[-1]], x[0])
    return _save(figure, path)


def _draw_smoothed(axes: Axes, x: np.ndarray, values: np.ndarray, borders: list[int]) -> None:
    """Draws the values faintly and their moving mean, which never crosses a border."""
    half = len(x) // 80
    if half == 0:
        axes.plot(x, values, color="tab:blue", marker="." if len(x) == 1 else None)
        return
    axes.plot(x, values, color="0.75", linewidth=0.8, label="as measured")
    label = f"moving mean, up to {2 * half + 1} values"
    for part in np.split(np.arange(len(x)), np.searchsorted(x, borders)):
        smooth = _smooth(values[part], min(half, len(part) // 4))
        axes.plot(x[part], smooth, color="tab:blue", linewidth=1.6, label=label)
        label = None


def _draw_tasks(axes: Axes, tasks: list[str], x: list[float], columns: list[list[Cell]]) -> None:
    for task, marker in zip(tasks, "v^<>D", strict=False):
        points = [(at, cell.carried.exact_match) for at, column in zip(x, columns, strict=True)
                  for cell in column if cell.carried and cell.carried.task == task]
        axes.plot(*zip(*points, strict=True), color="0.6", linewidth=0.7, marker=marker,
                  markersize=4, zorder=1.5, label=f"{task}, memory carried")


def _draw_means(axes: Axes, x: list[float], columns: list[list[Cell]], num_tasks: int) -> None:
    """Draws the means over tasks, each at the lengths where all tasks have it."""
    prefix = f"mean over {num_tasks} tasks, " if num_tasks > 1 else ""
    full = [(at, c) for at, c in zip(x, columns, strict=True) if len(c) == num_tasks]
    carried = [(at, [c.carried for c in column]) for at, column in full
               if all(c.carried for c in column)]
    if carried:
        at, groups = zip(*carried, strict=True)
        match = np.array([fmean(row.exact_match for row in group) for group in groups])
        counts = [sum(row.n for row in group) for group in groups]
        band = np.array([wilson(m * n, n) for m, n in zip(match, counts, strict=True)]).T
        axes.fill_between(at, *band, color="tab:blue", alpha=0.15, linewidth=0)
        axes.errorbar(at, match, np.maximum(0, [match - band[0], band[1] - match]), fmt="none",
                      ecolor="tab:blue", elinewidth=1, capsize=3)
        axes.plot(at, match, color="tab:blue", marker="o", linewidth=1.8, zorder=3,
                  label=f"{prefix}memory carried (95 % interval)")
    wiped = [(at, fmean(c.reset.exact_match for c in column)) for at, column in full
             if all(c.reset for c in column)]
    axes.plot(*zip(*wiped, strict=True), color="tab:orange", linestyle="--", marker="s",
              linewidth=1.6, label=f"{prefix}memory wiped at each segment")
    constant = [(at, fmean(c.any.constant_answer for c in column)) for at, column in full]
    axes.plot(*zip(*constant, strict=True), color="0.3", linestyle="-.", marker="x",
              linewidth=1.2, label="always the most frequent answer")


def _draw_stages(panels: Sequence[Axes], stages: list[tuple[int, int]], first_step: int) -> None:
    """Marks where the number of segments changes, and writes the numbers on top."""
    starts = {max(first, first_step): segments for first, segments in stages}
    if len(starts) < 2:
        return
    for axes in panels:
        for start in starts:
            if start > first_step:
                axes.axvline(start, color="black", linestyle=":", linewidth=1)
    top = panels[0].secondary_xaxis("top")
    top.set_xticks(list(starts), [str(segments) for segments in starts.values()],
                   fontsize="small")
    top.set_xlabel("segments in a training sequence, from this step on", fontsize="small")


def _tick(column: list[Cell]) -> str:
    """The name of a length, and below it the mean number of segments."""
    segments = fmean(cell.any.segments for cell in column)
    text = f"{segments:,.0f}" if segments >= 10 else f"{segments:.1f}".removesuffix(".0")
    return f"{column[0].any.length}\n{text}"


def _count(grid: list[Cell]) -> str:
    return f"n = {count_text([cell.any.n for cell in grid])} per task and length"


def _smooth(values: np.ndarray, half: int) -> np.ndarray:
    """The mean of each value and its up to `half` neighbours on either side."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
