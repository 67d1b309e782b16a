"""The look that all PNGs share: colours, markers, line styles, titles, legends, and saving.

Figures are drawn without pyplot, so that matplotlib's global state is neither read nor changed.
"""

import itertools
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm2_jax.runtime import paths
from lm2_jax.runtime.files import replacing

_DPI = 150
_LABEL_WIDTH = 85  # characters of a legend
# Okabe and Ito's colours, which colour-blind readers tell apart; line styles and markers differ
# in grey too. Six styles and seven markers repeat together after 42 series only.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)), (0, (8, 4)))
_MARKERS = "os^DvP*"
CONSTANT: dict[str, Any] = dict(color="0.3", linestyle=(0, (3, 1, 1, 1)), marker="x",
                                linewidth=1.2)


def series(index: int) -> dict[str, Any]:
    """The colour, line style and marker of the series with this number."""
    return dict(color=_COLORS[index % len(_COLORS)], linestyle=_LINES[index % len(_LINES)],
                marker=_MARKERS[index % len(_MARKERS)], linewidth=1.8, zorder=3)


def literal(text: str) -> str:
    """Escapes a user's text, in which matplotlib would read $ as mathematics and hide a label that
    begins with an underscore."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def share_axis(axes: Axes, label: str) -> None:
    """Makes the vertical axis one of shares, from 0 to 1."""
    axes.set_ylabel(f"{label} (0 to 1)")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def length_axis(axes: Axes, lengths: dict[str, float], below: Sequence[str], what: str) -> None:
    """Makes the horizontal axis one of context lengths, in log scale.

    Args:
      lengths: tokens by the name of the length.
      below: the text under each name; `what` says what that is.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(lengths.values()),
                    [f"{name}\n{text}" for name, text in zip(lengths, below, strict=True)])
    axes.set_xlabel(f"context length in tokens (log scale); below it, {what}")


def offsets(tokens: Sequence[float], count: int) -> list[float]:
    """Factors that set `count` points at one length apart, on a log axis of these lengths.

    All of them lie within a third of the smallest gap between two lengths.
    """
    at = sorted(tokens)
    gap = min((b / a for a, b in zip(at, at[1:], strict=False)), default=2.0)
    step = min(1.05, gap ** (1 / (3 * max(count, 1))))
    return [step ** (index - (count - 1) / 2) for index in range(count)]


def title(axes: Axes, text: str, subtitle: str) -> None:
    """Writes the title, and below it in small print what the figure was made from."""
    axes.set_title(text, loc="left", pad=8 + 12 * (1 + subtitle.count("\n")))
    axes.annotate(subtitle, (0, 1), (0, 6), xycoords="axes fraction",
                  textcoords="offset points", fontsize="small", color="0.3")


def legend(figure: Figure) -> None:
    """Puts the legend below the axes, in two columns if half of the width holds every label.

    Labels that the whole width does not hold are wrapped.
    """
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles, labels = (list(itertools.chain(*parts)) for parts in zip(*found, strict=True))
    columns = 2 if max(map(len, labels)) <= 45 else 1
    labels = [textwrap.fill(label, _LABEL_WIDTH) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-lines // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small",
                  frameon=False, handlelength=3.6)


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes the figure as PNG; a reader sees the old file or the new one, never a part."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)
    return paths.of(path)

