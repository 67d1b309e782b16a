"""The plots of one run: its results and its training."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lm2_jax.errors import UserError
from lm2_jax.eval.results import Cell, Row, by_length, cells
from lm2_jax.report import curves, style
from lm2_jax.report.table import count_range
from lm2_jax.report.tables import segments_text
from lm2_jax.runtime import paths

_TASK_CURVES = 5  # more tasks than these have no curve of their own


def plot_heat_map(rows: Sequence[Row], path: str | os.PathLike, has_memory: bool = True
                  ) -> Path | None:
    """Draws the exact match with the memory carried, tasks by lengths.

    If there is a single task, nothing is drawn, None is returned, and a file of an earlier
    evaluation is removed.
    """
    grid = cells(rows)
    tasks = list(dict.fromkeys(cell.any.task for cell in grid))
    if len(tasks) == 1:
        paths.of(path).unlink(missing_ok=True)
        return None
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
    axes.set_xticks(range(len(columns)),
                    [f"{column[0].any.length}\n{segments_text(column)}" for column in columns])
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xlabel("context length in tokens;\nbelow it, the mean number of segments")
    axes.set_ylabel("task")
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="exact match (0 to 1)")
    style.title(axes, "Exact match by task and context length",
                ("memory carried; " if has_memory else "") + _count(grid))
    return style.save(figure, path)


def plot_curves(rows: Sequence[Row], path: str | os.PathLike, *, name: str = "",
                trained_tokens: int | None = None, has_memory: bool = True,
                beside: Mapping[str, Sequence[Row]] | None = None) -> Path:
    """Draws the exact match over context length: memory carried, wiped, and constant answer.

    Several tasks are averaged where all of them were evaluated; up to five also have a thin
    curve each. Bars are Wilson's 95 % interval of all samples of a length.

    Args:
      name: of the run, for the title.
      trained_tokens: of the longest row in training, marked by a vertical line.
      has_memory: whether the model has a memory that could be carried or wiped.
      beside: rows of other models on the same samples, by name; a curve each.
    """
    grid = cells(rows)
    tasks = list(dict.fromkeys(cell.any.task for cell in grid))
    columns = by_length(grid)
    lengths = {column[0].any.length: fmean(cell.any.tokens for cell in column)
               for column in columns}
    whole = [column for column in columns if len(column) == len(tasks)]
    prefix = f"mean of {len(tasks)} tasks, " if len(tasks) > 1 else ""
    labels = {"carried": "memory carried", "reset": "memory wiped at each segment"}
    if not has_memory:
        labels = {"carried": "exact match"}
    drawn = {prefix + label: points for memory, label in labels.items()
             if (points := _points(whole, memory))}
    for other, theirs in (beside or {}).items():
        drawn[prefix + other] = _points(
            [column for column in by_length(cells(theirs)) if len(column) == len(tasks)], "carried")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    curves.draw(axes, drawn, list(lengths.values()))
    if 1 < len(tasks) <= _TASK_CURVES:
        _draw_tasks(axes, tasks, columns)
    axes.plot([_tokens(column) for column in whole],
              [fmean(cell.any.constant_answer for cell in column) for column in whole],
              label=f"{prefix}best constant answer", **style.CONSTANT)
    if trained_tokens is not None:
        axes.axvline(trained_tokens, color="black", linestyle=":", linewidth=1.2,
                     label=f"longest row in training ({trained_tokens:,} tokens)")
    style.length_axis(axes, lengths, [segments_text(column) for column in columns],
                      "the mean number of segments")
    style.share_axis(axes, "exact match")
    what = ", ".join(tasks) if len(tasks) <= _TASK_CURVES else f"{len(tasks)} tasks"
    what += f", {style.literal(name)}" if name else ""
    style.title(axes, f"Exact match vs context length: {what}",
                f"{_count(grid)}; bars: 95 % interval")
    style.legend(figure)
    return style.save(figure, path)


def plot_training(steps: Sequence[int], losses: Sequence[float], accuracies: Sequence[float],
                  path: str | os.PathLike, stages: Sequence[tuple[int, int]], name: str = ""
                  ) -> Path:
    """Draws loss (log scale) and answer accuracy over steps, raw and smoothed.

    Args:
      steps: the steps that the values belong to. If a step occurs twice, as after a resume, its
        last value is drawn.
      losses, accuracies: one for each step; NaN where there is none.
      stages: (first step, segments in a sequence) of each stage of the curriculum, in order.
      name: of the run, for the title.
    """
    if not len(steps) == len(losses) == len(accuracies) or not len(steps):
        raise UserError(f"plot_training needs as many losses and accuracies as steps, got "
                        f"{len(losses)} and {len(accuracies)} for {len(steps)}")
    last = {step: values for step, *values in zip(steps, losses, accuracies, strict=True)}
    x = np.array(sorted(last))
    values = np.array([last[step] for step in x.tolist()], float)
    names = ["loss (nats per token, log scale)", "answer accuracy (0 to 1)"]
    shown = [i for i in range(len(names)) if not np.isnan(values[:, i]).all()]
    figure = Figure(figsize=(7.2, 1.2 + 2.4 * len(shown)), layout="constrained")
    title = "Loss and answer accuracy vs training step"
    figure.suptitle(f"{title}: {style.literal(name)}" if name else title)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, i in zip(panels, shown, strict=True):
        known = ~np.isnan(values[:, i])
        _draw_smoothed(axes, x[known], values[known, i], [first for first, _ in stages])
        axes.set_ylabel(names[i])
        if i == 0:
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(-0.02, 1.04)
        axes.grid(axis="y", color="0.9")
    panels[-1].set_xlabel("training step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(panels[0].get_lines()) > 1:
        panels[0].legend(loc="upper right", fontsize="small")
    _draw_stages(panels, [stage for stage in stages if stage[0] <= x[-1]], x[0])
    return style.save(figure, path)


def smooth(values: np.ndarray, half: int) -> np.ndarray:
    """The mean of each value and its `half` neighbours on either side.

    At the start, where values change fast, the window narrows but stays symmetric: the first mean
    is the first value. At the end it is cut off.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    halves = np.minimum(half, index)
    low, high = index - halves, np.minimum(index + halves + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _draw_smoothed(axes: Axes, x: np.ndarray, values: np.ndarray, borders: list[int]) -> None:
    """Draws the values faintly, and their moving mean, which restarts at each border."""
    half = len(x) // 80
    if half == 0:
        axes.plot(x, values, color=style.series(0)["color"], marker="." if len(x) == 1 else None)
        return
    axes.plot(x, values, color="0.75", linewidth=0.8, label="as measured")
    label: str | None = f"moving mean over {2 * half + 1} steps"
    for part in np.split(np.arange(len(x)), np.searchsorted(x, borders)):
        axes.plot(x[part], smooth(values[part], half), color=style.series(0)["color"],
                  linewidth=1.6, label=label)
        label = None


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


def _draw_tasks(axes: Axes, tasks: list[str], columns: list[list[Cell]]) -> None:
    for task, marker in zip(tasks, "v^<>D", strict=False):
        points = [(_tokens(column), cell.carried.exact_match) for column in columns
                  for cell in column if cell.carried and cell.carried.task == task]
        axes.plot(*zip(*points, strict=True), color="0.6", linewidth=0.7, marker=marker,
                  markersize=4, zorder=1.5, label=task)


def _points(columns: list[list[Cell]], memory: str) -> list[curves.Point]:
    """The mean over tasks at each length where every task has a row of this memory."""
    found = []
    for column in columns:
        rows = [getattr(cell, memory) for cell in column]
        if all(rows):
            found.append(curves.Point(_tokens(column), [fmean(r.exact_match for r in rows)],
                                      sum(r.n for r in rows)))
    return found


def _tokens(column: list[Cell]) -> float:
    return fmean(cell.any.tokens for cell in column)


def _count(grid: list[Cell]) -> str:
    return f"n = {count_range([cell.any.n for cell in grid])} per task and length"
