"""The gates of a model as a table and a picture."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from lm2_jax.eval.gates import QUANTILES, Gates
from lm2_jax.report import figures

_STYLES = ("-", "--", ":", "-.")


def gates_table(gates: Sequence[Gates]) -> Table:
    """A line for prose, facts and the question in each block."""
    spread = " ".join(f"{quantile:.0%}" for quantile in QUANTILES)
    table = Table(title="Gates, from 0 (closed) to 1 (open)", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False, collapse_padding=True)
    for name in ("block", "in"):
        table.add_column(name)
    for name in ("output", f"input\n{spread}", f"forget\n{spread}", "half-life,\ntokens"):
        table.add_column(name, justify="right")
    for g in gates:
        for where, output in g.output.items():
            spreads = (_numbers(gate.get(where, ()), "{:.3f}") for gate in (g.input, g.forget))
            half_life = _numbers(g.half_life, "{:,.0f}") if where == "prose" else ""
            table.add_row(str(g.block), where, f"{output:.3f}", *spreads, half_life)
        table.add_section()
    return table


def _numbers(values: Sequence[float], form: str) -> str:
    return " ".join(map(form.format, values))


def plot_gates(gates: Sequence[Gates], path: str | os.PathLike, longest: float,
               subtitle: str) -> Path:
    """Draws how much of what the bank holds is left after so many tokens of prose.

    Args:
      longest: tokens, to the end of the axis.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    tokens = np.geomspace(10, max(longest, 100), 200)
    for g in gates:
        low, middle, high = (0.5 ** (tokens / half_life) for half_life in g.half_life)
        shade = str(0.65 * g.block / max(1, len(gates) - 1))
        axes.plot(tokens, middle, _STYLES[g.block % len(_STYLES)], color=shade, linewidth=1.8,
                  label=f"block {g.block}: the median dimension of a slot")
        axes.plot(tokens, high, _STYLES[g.block % len(_STYLES)], color=shade, linewidth=0.9,
                  label=f"block {g.block}: one that {QUANTILES[-1]:.0%} forget faster than")
    axes.set_xscale("log")
    axes.set_xlabel("tokens of prose read since (log scale)")
    axes.set_ylabel("share that is left (0 to 1)")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize="small", frameon=False)
    figures.title(axes, "What the forget gates leave", subtitle)
    return figures.save(figure, path)
