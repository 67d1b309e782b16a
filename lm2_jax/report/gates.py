"""The gates of a model as a table and a plot."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lm2_jax.eval.gates import QUANTILES, Gates
from lm2_jax.report import style
from lm2_jax.report.table import Table


def table(gates: Sequence[Gates]) -> Table:
    """One row each for prose, facts and the question of every block."""
    spread = " ".join(f"{quantile:.0%}" for quantile in QUANTILES)
    return Table(
        ["block", "in", "output", f"input\n{spread}", f"forget\n{spread}", "half-life,\ntokens"],
        [[[str(g.block), where, f"{output:.3f}",
           *(" ".join(f"{value:.3f}" for value in gate.get(where, ()))
             for gate in (g.input, g.forget)),
           " ".join(f"{value:,.0f}" for value in g.half_life) if where == "prose" else ""]
          for where, output in g.output.items()] for g in gates],
        text_columns=2)


def plot_gates(gates: Sequence[Gates], path: str | os.PathLike, segment_length: int,
               longest: float, subtitle: str) -> Path:
    """Draws the share of a value in the bank that is left after so many tokens of prose.

    Curves follow from the half-lives; points are the measured `Gates.retention`.

    Args:
      segment_length, longest: tokens, the two ends of the axis.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    tokens = np.geomspace(segment_length, max(longest, 2 * segment_length), 200)
    for g in gates:
        look = style.series(g.block)
        measured = np.array(g.retention).reshape(-1, 1 + len(QUANTILES)).T
        for i, name, width, fill in ((1, "median", 1.8, look["color"]),
                                     (2, f"{QUANTILES[-1]:.0%} quantile", 0.9, "white")):
            curve = look | dict(marker="", linewidth=width)
            points = dict(color=look["color"], marker=look["marker"], markerfacecolor=fill)
            axes.plot(tokens, 0.5 ** (tokens / g.half_life[i]), **curve)
            axes.plot(measured[0], measured[1 + i], **points, linestyle="none", zorder=3)
            axes.plot([], [], label=f"block {g.block}, {name}", **curve | points)
    segments = [2**i for i in range(int(np.log2(tokens[-1] / segment_length)) + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks([n * segment_length for n in segments],
                    [f"{n * segment_length:,}\n{n:,}" for n in segments])
    axes.set_xlabel("tokens read since (log scale); below it, the number of segments")
    style.share_axis(axes, "share left of a value in a slot")
    measured_on = ("prose; curves: from the half-life; points: measured over consecutive segments"
                   if gates[0].retention else
                   "segments with facts, since none holds prose only; curves: from the half-life")
    style.title(axes, "How fast the memory forgets: share left vs tokens read",
                f"{subtitle}\n{measured_on}; quantiles over slots and dimensions")
    style.legend(figure)
    return style.save(figure, path)
