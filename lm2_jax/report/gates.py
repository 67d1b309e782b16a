"""The gates of a model as a table and a plot."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lm2_jax.eval.gates import QUANTILES, Gates
from lm2_jax.report import style
from lm2_jax.report.table import Table, percent

_SPREAD = " ".join(f"{quantile:.0%}" for quantile in QUANTILES)


def table(gates: Sequence[Gates]) -> Table:
    """The gates: one row each for prose, facts and the question of every block."""
    return Table(
        ["block", "in", "output", f"input\n{_SPREAD}", f"forget\n{_SPREAD}"],
        [[[str(g.block), where, f"{output:.3f}",
           *(_numbers(gate.get(where, ())) for gate in (g.input, g.forget))]
          for where, output in g.output.items()] for g in gates],
        text_columns=2)


def keeping_table(gates: Sequence[Gates]) -> Table:
    """How long the memory keeps: half-lives and, for a write that has it, u in prose and facts."""
    half_lives = [" ".join(f"{value:,.0f}" for value in g.half_life) for g in gates]
    if not any(g.open for g in gates):
        return Table(["block", f"half-life, tokens\n{_SPREAD}"],
                     [[[str(g.block), text] for g, text in zip(gates, half_lives, strict=True)]])
    return Table(
        ["block", "in", f"write open, u\n{_SPREAD}", "u exactly 0,\n%",
         f"half-life, tokens\n{_SPREAD}"],
        [[[str(g.block), where, _numbers(values), percent(g.closed[where]),
           text if where == "prose" else ""] for where, values in g.open.items()]
         for g, text in zip(gates, half_lives, strict=True)],
        text_columns=2)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def plot_gates(gates: Sequence[Gates], path: str | os.PathLike, segment_length: int,
               longest: float, subtitle: str) -> Path:
    """Draws the share that an old value has in its slot after so many tokens of prose.

    Curves are `Gates.expected`, by the mean gates and writes; points are the measured
    `Gates.retention`.

    Args:
      segment_length, longest: tokens, the two ends of the axis.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    last = max(longest, 2 * segment_length)
    for g in gates:
        look = style.series(g.block)
        expected, measured = (np.array(rows).reshape(-1, 1 + len(QUANTILES)).T
                              for rows in (g.expected, g.retention))
        for i, name, width, fill in ((1, "median", 1.8, look["color"]),
                                     (2, f"{QUANTILES[-1]:.0%} quantile", 0.9, "white")):
            curve = look | dict(marker="", linewidth=width)
            points = dict(color=look["color"], marker=look["marker"], markerfacecolor=fill)
            axes.plot(expected[0], expected[1 + i], **curve)
            axes.plot(measured[0], measured[1 + i], **points, linestyle="none", zorder=3)
            axes.plot([], [], label=f"block {g.block}, {name}", **curve | points)
    segments = [2**i for i in range(int(np.log2(last / segment_length)) + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xlim(segment_length / 1.1, last * 1.1)
    axes.set_xticks([n * segment_length for n in segments],
                    [f"{n * segment_length:,}\n{n:,}" for n in segments])
    axes.set_xlabel("tokens read since (log scale); below it, the number of segments")
    style.share_axis(axes, "share of an old value in its slot")
    measured_on = ("prose; curves: by means over segments; points: measured over stretches"
                   if gates[0].retention else
                   "segments with facts, since none holds prose only; curves: by means")
    style.title(axes, "How fast the memory forgets: share left vs tokens read",
                f"{subtitle}\n{measured_on}; quantiles over slots and dimensions")
    style.legend(figure)
    return style.save(figure, path)
