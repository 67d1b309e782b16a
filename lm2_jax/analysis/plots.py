"""The pictures of `lm2 analyze`, in the look of all plots."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lm2_jax.analysis.attention import Maps
from lm2_jax.analysis.distance import Gradients
from lm2_jax.report import style

_COLOURS = "Blues"
_FACT = "#D55E00"  # facts and their places, in all pictures
_LONGEST_LABEL = 58  # characters


def read_maps(maps: Maps, words: Sequence[str], path: str | os.PathLike, subtitle: str) -> Path:
    """Heat maps of the read attention, one for each bank, tokens down and slots across."""
    figure = Figure(figsize=(3.0 * len(maps.maps) + 1.0, max(1.9 + 0.2 * len(words), 4.0)),
                    layout="constrained")
    grid = figure.subplots(1, len(maps.maps), sharey=True, squeeze=False)[0]
    top = max(map_TM.max() for map_TM in maps.maps.values())
    for axes, (name, map_TM) in zip(grid, maps.maps.items(), strict=True):
        image = _heat(axes, map_TM, top)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("slot")
    grid[0].set_yticks(range(len(words)), [style.literal(word) for word in words],
                       fontsize="small")
    figure.colorbar(image, ax=list(grid), label="read attention (a row sums to 1)", shrink=0.8)
    _heading(figure, f"What the question reads: block {maps.block}, head {maps.head}", subtitle)
    return style.save(figure, path)


def sentence_maps(maps: dict[str, np.ndarray], texts: Sequence[str], facts: Sequence[bool],
                  path: str | os.PathLike, title: str, subtitle: str) -> Path:
    """Heat maps with sentences down and slots across; facts are coloured."""
    lines = [textwrap.shorten(text, _LONGEST_LABEL, placeholder=" ...") for text in texts]
    figure = Figure(figsize=(3.6 + 2.6 * len(maps), 2.0 + 0.21 * len(lines)),
                    layout="constrained")
    grid = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (name, map_XM) in zip(grid, maps.items(), strict=True):
        image = _heat(axes, map_XM, max(float(map_XM.max()), 1e-6))
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("slot")
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02,
                        ticks=MaxNLocator(4))
    grid[0].set_yticks(range(len(lines)), [style.literal(line) for line in lines],
                       fontsize="small")
    for label, is_fact in zip(grid[0].get_yticklabels(), facts, strict=True):
        if is_fact:
            label.set(color=_FACT, fontweight="bold")
    _heading(figure, title, subtitle)
    return style.save(figure, path)


def gates(gates: dict[str, np.ndarray], fact_segments: Sequence[int], path: str | os.PathLike,
          subtitle: str) -> Path:
    """Lines of each gate over the segments of a text, one for each block.

    Args:
      gates: the labels of the gates and their means, [S, P].
    """
    figure = Figure(figsize=(8.4, 1.2 + 1.45 * len(gates)), layout="constrained")
    grid = figure.subplots(len(gates), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, values_SP) in zip(grid, gates.items(), strict=True):
        for number in fact_segments:
            axes.axvspan(number - 0.5, number + 0.5, color=_FACT, alpha=0.18, linewidth=0)
        for block, values in enumerate(values_SP.T):
            look = style.series(block) | dict(marker="", linewidth=1.2)
            axes.plot(values, **look, label=f"block {block}" if axes is grid[0] else None)
        axes.set_ylabel(label, fontsize="small")
        axes.set_ylim(-0.03, 1.03)
        axes.grid(axis="y", color="0.92")
    grid[0].axvspan(0, 0, color=_FACT, alpha=0.18, label="segments with facts")
    grid[-1].set_xlim(-0.5, len(values_SP) - 0.5)
    grid[-1].set_xlabel("segment")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _heading(figure, "The gates while a long text is read (0 closed, 1 open)", subtitle)
    style.legend(figure)
    return style.save(figure, path)


def gradients(found: Gradients, path: str | os.PathLike, segment_length: int, subtitle: str
              ) -> Path:
    """The gradient to the fact and to prose beside it over the distance; bands hold 80 %."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, norms_KB) in enumerate((("the fact that gives the answer", found.fact),
                                               ("prose in the same segments", found.prose))):
        known = ~np.isnan(norms_KB).all(axis=0)
        if not known.any():
            continue
        low, middle, high = np.nanquantile(norms_KB[:, known], (0.1, 0.5, 0.9), axis=1)
        look = style.series(index)
        axes.plot(found.segments, middle, **look, label=f"{label}: median")
        axes.fill_between(found.segments, low, high, color=look["color"], alpha=0.15, linewidth=0)
    if (found.fact > 0).any():  # a memory that was never trained may pass nothing back
        axes.set_yscale("log")
    _distance_axis(axes, found.segments, segment_length)
    axes.set_ylabel("norm of the gradient to a token's embedding")
    axes.grid(axis="y", color="0.9")
    style.title(axes, "How much the answer's loss still depends on the fact", subtitle)
    style.legend(figure)
    return style.save(figure, path)


def probe(curves: Mapping[str, Sequence[float]], constant: float, segments: Sequence[int],
          path: str | os.PathLike, segment_length: int, subtitle: str) -> Path:
    """Accuracy of the probes and of the model over the distance, beside the constant answer."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, values) in enumerate(curves.items()):
        look = style.series(index)
        if not index:  # stays visible below the probes that lie on it
            look |= dict(markersize=10, markerfacecolor="white")
        axes.plot(segments, values, **look, label=label)
    axes.plot(segments, [constant] * len(segments), **style.CONSTANT,
              label="best constant answer")
    _distance_axis(axes, segments, segment_length)
    style.share_axis(axes, "share of right predictions")
    style.title(axes, "What a linear probe finds in the memory", subtitle)
    style.legend(figure)
    return style.save(figure, path)


def movement(moved_SPR: np.ndarray, blocks: Sequence[int], fact_segments: Sequence[int],
             first_segment: int, path: str | os.PathLike, what: str, subtitle: str) -> Path:
    """Heat maps of the change of each row of the state, segments across; one for each block."""
    S, _, R = moved_SPR.shape
    height = min(max(0.11 * R, 1.1), 3.2)
    figure = Figure(figsize=(8.4, 1.5 + height * len(blocks)), layout="constrained")
    grid = figure.subplots(len(blocks), 1, sharex=True, squeeze=False)[:, 0]
    top = max(float(moved_SPR[:, list(blocks)].max()), 1e-6)
    for axes, block in zip(grid, blocks, strict=True):
        image = axes.imshow(moved_SPR[:, block].T, aspect="auto", cmap=_COLOURS, vmin=0, vmax=top,
                            interpolation="nearest",
                            extent=(first_segment - 0.5, first_segment + S - 0.5, R - 0.5, -0.5))
        axes.set_ylabel(f"block {block}\n{what}", fontsize="small")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.axvline(first_segment + S - 1.5, color="0.2", linewidth=1.0, linestyle=":")
    for number in fact_segments:
        grid[0].annotate("▼", (number, 1), xycoords=("data", "axes fraction"), ha="center",
                         va="bottom", fontsize="x-small", color=_FACT)
    grid[-1].set_xlabel("segment; the last one, right of the dotted line, holds the question")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=list(grid), label="change, share of its size")
    _heading(figure, "How the memory moves (▼ segments with facts)", subtitle)
    return style.save(figure, path)


def _heat(axes: Axes, values: np.ndarray, top: float):
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return axes.imshow(values, aspect="auto", cmap=_COLOURS, vmin=0, vmax=top,
                       interpolation="nearest")


def _heading(figure: Figure, title: str, subtitle: str) -> None:
    """The title of a figure of several axes, and the small print below it."""
    space = "\n" * (1 + subtitle.count("\n"))
    figure.suptitle(title + space, x=0.01, ha="left", fontsize="large")
    figure.text(0.01, 1 - 0.36 / figure.get_figheight(), subtitle, fontsize="small", color="0.3",
                va="top")


def _distance_axis(axes: Axes, segments: Sequence[int], segment_length: int) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(segments, [f"{k:,}\n{k * segment_length:,}" for k in segments])
    axes.set_xlabel("segments since the fact (log scale); below it, tokens")
