"""Perplexity by segment: tables, and a plot of bits per byte."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm2_jax.eval.perplexity import WHOLE, Interval, Row
from lm2_jax.report import style
from lm2_jax.report.table import Table, count_range

LESS_IMPORTANT = ("word\nperplexity", "tokens", "documents")  # columns
_LABELS = {"carried": "memory carried", "reset": "memory wiped at each segment"}


def tables(rows: Sequence[Row], segment_length: int) -> list[tuple[Table, str]]:
    """A table of each corpus and its title; one row for each group of segments."""
    return [(_table(_of(rows, corpus)),
             f"Perplexity of {corpus} by segment of {segment_length} tokens")
            for corpus in _corpora(rows)]


def _table(rows: Sequence[Row]) -> Table:
    pairs = _pairs(rows)
    columns: dict[str, Any] = {
        "segment": lambda row, wiped: row.segments,
        "documents": lambda row, wiped: f"{row.documents:,}",
        "tokens": lambda row, wiped: f"{row.tokens:,}",
        "nats a token\n(± 95 % interval)": lambda row, wiped: _with(row.loss, row.loss_interval),
        "perplexity": lambda row, wiped: _number(row.perplexity, 2),
        "word\nperplexity": lambda row, wiped: _number(row.word_perplexity, 1),
        "bits\nper byte": lambda row, wiped: _number(row.bits_per_byte),
    }
    if any(wiped and row is not wiped for row, wiped in pairs):
        columns |= {
            "wiped: bits\nper byte": lambda row, wiped: _number(wiped.bits_per_byte),
            "saved by carrying\n(± 95 %)": lambda row, wiped: _with(row.saved,
                                                                        row.saved_interval)}
    lines = [[text(row, wiped) for text in columns.values()] for row, wiped in pairs]
    return Table(list(columns), [lines[:-1], lines[-1:]])


def plot(rows: Sequence[Row], path: str | os.PathLike, segment_length: int) -> Path:
    """Draws the bits per byte of each group of segments, a panel a corpus.

    Bars are 95 % intervals over documents.
    """
    corpora = _corpora(rows)
    figure = Figure(figsize=(7.2, 1.0 + 3.2 * len(corpora)), layout="constrained")
    panels = figure.subplots(len(corpora), 1, squeeze=False)[:, 0]
    for axes, corpus in zip(panels, corpora, strict=True):
        found = [row for row in _of(rows, corpus)
                 if row.segments != WHOLE and row.bits_per_byte is not None]
        modes, names = ([*dict.fromkeys(getattr(row, name) for row in found)]
                        for name in ("memory", "segments"))
        for index, mode in enumerate(modes):
            own = [row for row in found if row.memory == mode]
            x = [names.index(row.segments) + 0.08 * (index - (len(modes) - 1) / 2) for row in own]
            y = np.array([row.bits_per_byte for row in own])
            ends = np.array([row.bits_per_byte_interval or 2 * (row.bits_per_byte,)
                             for row in own])
            look = style.series(index) | dict(label="_" if axes is not panels[0] else
                                              _LABELS[mode] if len(modes) > 1 else "bits per byte")
            axes.errorbar(x, y, np.abs(ends.T - y), capsize=3, elinewidth=1, **look)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(f"segment of the document ({segment_length} tokens each)")
        axes.set_ylabel("bits per byte")
        axes.grid(axis="y", color="0.9")
        documents = count_range([row.documents for row in found])
        style.title(axes, f"Held-out documents of {style.literal(Path(corpus).name)}",
                    f"{documents} documents; bars: 95 % interval over documents")
    style.legend(figure)
    return style.save(figure, path)


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row | None]]:
    """The row of each group of segments and the one with the memory wiped; if only that was
    measured, it stands in both places."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.segments, {})[row.memory] = row
    return [(pair.get("carried", pair.get("reset")), pair.get("reset"))  # type: ignore[misc]
            for pair in found.values()]


def _corpora(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.corpus for row in rows))


def _of(rows: Sequence[Row], corpus: str) -> list[Row]:
    return [row for row in rows if row.corpus == corpus]


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value >= 1e7 else f"{value:,.{digits}f}"


def _with(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return _number(value)
    return f"{value:.4f} ± {interval[1] - value:.4f}"
