"""The runs of a grid as heat maps: which combinations of settings work."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lm2_jax.report import style

WORKS = 0.9  # exact match from which on a run is outlined
_MAX_COLUMNS = 4  # panels beside each other
_NAME = re.compile(r"[a-z]+_[0-9][0-9.e+-]*(?:_[a-z]+_[0-9][0-9.e+-]*)+")


@dataclass(frozen=True)
class Grid:
    """Settings whose combinations are the runs of a sweep.

    Attributes:
      axes: the values of each setting, as in the names of the runs, in increasing order.
    """

    axes: Mapping[str, Sequence[str]]

    def name(self, values: Sequence[str]) -> str:
        """The name of the run with these values, one for each axis."""
        return "_".join(f"{axis}_{value}" for axis, value in zip(self.axes, values, strict=True))


def of_names(names: Sequence[str]) -> Grid | None:
    """The grid of runs with names such as rate_0.001_rows_2; None if they are no grid.

    All names must have the same settings, two at least, and two values of two of them.
    """
    if not names or not all(map(_NAME.fullmatch, names)):
        return None
    parts = [name.split("_") for name in names]
    settings = {tuple(part[::2]) for part in parts}
    if len(settings) != 1:
        return None
    axes = {setting: sorted({part[2 * i + 1] for part in parts}, key=float)
            for i, setting in enumerate(settings.pop())}
    return Grid(axes) if sum(len(values) > 1 for values in axes.values()) > 1 else None


def plot(grid: Grid, scores: Mapping[str, Mapping[str, float]], lengths: Sequence[str],
         path: str | os.PathLike) -> Path:
    """Draws a heat map for each length and each combination of all settings but the first two.

    Cells that reach `WORKS` are outlined.

    Args:
      scores: exact match by the name of the run and the length; runs may be missing.
      lengths: of the panels.
    """
    first, second, *others = grid.axes
    rest = list(itertools.product(*(grid.axes[setting] for setting in others)))
    height = 1.3 + 0.36 * len(grid.axes[first])
    columns = min(len(lengths), _MAX_COLUMNS)
    lines = len(rest) * -(-len(lengths) // columns)
    figure = Figure(figsize=(2.2 + 2.6 * columns, 0.9 + height * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    image = None
    for axes, (values, length) in zip(panels, itertools.product(rest, lengths), strict=False):
        cells = np.array([[scores.get(grid.name((y, x, *values)), {}).get(length, np.nan)
                           for x in grid.axes[second]] for y in grid.axes[first]])
        image = _draw(axes, cells)
        axes.set_xticks(range(len(grid.axes[second])), grid.axes[second])
        axes.set_yticks(range(len(grid.axes[first])), grid.axes[first])
        axes.set_xlabel(second)
        axes.set_ylabel(first)
        axes.set_title(", ".join([length, *(f"{setting} {value}" for setting, value in
                                            zip(others, values, strict=True))]), fontsize="medium")
    for axes in panels[len(rest) * len(lengths):]:
        axes.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=panels, label="exact match (0 to 1)")
    figure.suptitle(f"Exact match by {', '.join(grid.axes)}; outlined: {WORKS} or more",
                    x=0.01, ha="left")
    return style.save(figure, path)


def _draw(axes: Axes, cells: np.ndarray):
    axes.set_facecolor("0.9")
    image = axes.imshow(cells, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(cells):
        axes.text(x, y, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
                  color="white" if value < 0.5 else "black")
        if value >= WORKS:
            axes.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, fill=False, linewidth=2.2,
                                     edgecolor="#D55E00"))
    axes.tick_params(length=0)
    return image
