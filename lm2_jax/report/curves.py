"""Draws the curves of several models over context length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes

from lm2_jax.eval.metrics import wilson
from lm2_jax.report import style


@dataclass(frozen=True)
class Point:
    """What a model reached at one length: a share for each seed, of `n` samples each."""

    tokens: float
    shares: Sequence[float]
    n: int


def draw(axes: Axes, curves: Mapping[str, Sequence[Point]], lengths: Sequence[float]) -> None:
    """Draws the mean of the seeds at each length, curves set apart so that no points overlap.

    One seed has Wilson's 95 % interval as a bar; of several seeds each is a dot.

    Args:
      curves: points by label.
      lengths: tokens of all lengths that are drawn.
    """
    factors = style.offsets(lengths, len(curves))
    for index, (factor, (label, points)) in enumerate(zip(factors, curves.items(), strict=True)):
        look = style.series(index)
        x = np.array([point.tokens * factor for point in points])
        means = np.array([fmean(point.shares) for point in points])
        axes.plot(x, means, label=label, **look)
        for at, mean, point in zip(x, means, points, strict=True):
            if len(point.shares) > 1:
                low, high = min(point.shares), max(point.shares)
                axes.plot([at] * len(point.shares), point.shares, "o", color=look["color"],
                          markersize=3, markerfacecolor="white", zorder=4)
            else:
                low, high = wilson(mean * point.n, point.n)
            axes.errorbar(at, mean, [[max(0, mean - low)], [max(0, high - mean)]], fmt="none",
                          capsize=3 if len(point.shares) == 1 else 0, elinewidth=1,
                          ecolor=look["color"])
