"""How every PNG begins and ends: its title, and its file.

Figures are drawn without pyplot, so that no global state of matplotlib is read by others or
changed here.
"""

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm2_jax.runtime.files import replacing

_DPI = 150


def title(axes: Axes, text: str, subtitle: str) -> None:
    """The title, and below it in small print what the figure was made from."""
    axes.set_title(text, loc="left", pad=8 + 12 * (1 + subtitle.count("\n")))
    axes.annotate(subtitle, (0, 1), (0, 6), xycoords="axes fraction",
                  textcoords="offset points", fontsize="small", color="0.3")


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes the figure as PNG; an old file is replaced whole."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)
    return Path(path)


def count_text(counts) -> str:
    """"100", or "50 to 100" if they differ."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
