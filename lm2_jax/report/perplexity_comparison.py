"""Perplexity of several runs: a table of means over seeds, and the held-out loss over tokens."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from lm2_jax.eval.perplexity import WHOLE, ratio
from lm2_jax.report import style
from lm2_jax.report.comparison import Run
from lm2_jax.report.table import Table, count_range
from lm2_jax.runtime import paths

NOTE = ("Held-out documents as far as they were read; the mean of the seeds, with the lowest and "
        "the highest.")
PAIRED = (" The last column is the mean of the seeds minus that of {}, so that less than 0 is "
          "better; its 95 % interval is over documents, not over seeds.")
EARLIER = (" {}: measured by an earlier version, which wiped the attention window with the memory.")
LESS_IMPORTANT = ("corpus", "word\nperplexity", "parameters", "seeds")  # columns
Curve = Sequence[tuple[int, float]]  # (tokens seen, held-out loss in nats a token)


def names_table(groups: Mapping[str, Sequence[Run]]) -> Table:
    """A row for each name and corpus.

    Args:
      groups: the seeds by name.
    """
    lines, first = [], next(iter(groups), "")
    differences: list[str] = []
    for name, runs in groups.items():
        found = [{(row.corpus, row.memory): row for row in run.perplexity if row.segments == WHOLE}
                 for run in runs]
        parameters = [run.parameters for run in runs if run.parameters]
        for corpus, memory in dict.fromkeys(key for rows in found for key in rows):
            if memory == "reset" and any((corpus, "carried") in rows for rows in found):
                continue
            rows = [rows[corpus, memory] for rows in found if (corpus, memory) in rows]
            wiped = [rows[corpus, "reset"].bits_per_byte for rows in found
                     if (corpus, "reset") in rows]
            lines.append([
                name, Path(corpus).name, str(len(rows)),
                count_range(parameters) if parameters else "-",
                *(_mean([getattr(row, field) for row in rows], digits) for field, digits in (
                    ("loss", 4), ("perplexity", 2), ("word_perplexity", 1),
                    ("bits_per_byte", 4))),
                _mean(wiped, 4), _mean([row.saved for row in rows], 4)])
            differences.append(_difference(runs, groups[first], corpus, memory))
    header = ["name", "corpus", "seeds", "parameters", "nats\na token", "perplexity",
              "word\nperplexity", "bits\nper byte", "bits per byte,\nmemory wiped",
              "nats a token\nsaved by carrying"]
    note = NOTE
    if any(text != "-" for text in differences[1:]):
        header.append(f"nats a token,\nminus {first}'s")
        lines = [[*line, text] for line, text in zip(lines, differences, strict=True)]
        note += PAIRED.format(first)
    if earlier := [name for name, runs in groups.items() if any(
            run.perplexity and not run.documents and run.config.model.attention_window
            and run.config.model.memory.num_layers for run in runs)]:
        note += EARLIER.format(", ".join(earlier))
    return Table(header, [lines], text_columns=2, note=note)


def _difference(runs: Sequence[Run], others: Sequence[Run], corpus: str, memory: str) -> str:
    """The nats a token of the mean of some seeds over that of others, with the interval of the
    differences of documents; "-" if they were not measured on the same ones."""
    found = []
    for seeds in (runs, others):
        documents: dict[tuple[int, int], list[float]] = {}
        for run in seeds:
            for one in run.documents:
                if (Path(one.corpus).name, one.memory) == (Path(corpus).name, memory):
                    documents.setdefault((one.document, one.tokens), []).append(one.nats)
        if any(len(nats) != len(seeds) for nats in documents.values()):
            return "-"  # a seed was evaluated by an earlier version
        found.append({key: fmean(nats) for key, nats in documents.items()})
    own, theirs = found
    if runs is others or not own or own.keys() != theirs.keys():
        return "-"
    difference, interval = ratio(np.array([own[key] - theirs[key] for key in own]),
                                 np.array([tokens for _, tokens in own]))
    return f"{difference:+.4f}" + (f" ± {interval[1] - difference:.4f}" if interval else "")


def plot_held_out(curves: Mapping[str, Sequence[Curve]], path: str | os.PathLike) -> Path | None:
    """Draws the held-out loss over the tokens seen: the mean of the seeds of each name, and a band
    from the lowest to the highest.

    Args:
      curves: of the seeds, by name. Of unequally long ones the common beginning is drawn.

    Returns:
      The path; None, and no file, if there is nothing to draw.
    """
    drawn = {name: [curve for curve in seeds if curve] for name, seeds in curves.items()}
    drawn = {name: seeds for name, seeds in drawn.items() if seeds}
    if not drawn:
        paths.of(path).unlink(missing_ok=True)
        return None
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, seeds) in enumerate(drawn.items()):
        points = np.array([values[:min(map(len, seeds))] for values in seeds], float)
        tokens_N, losses_SN = points[..., 0].mean(0), points[..., 1]
        count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        look = style.series(index) | dict(markersize=4)
        axes.plot(tokens_N, losses_SN.mean(0), label=f"{style.literal(name)} ({count})", **look)
        axes.fill_between(tokens_N, losses_SN.min(0), losses_SN.max(0), color=look["color"],
                          alpha=0.2, linewidth=0)
    axes.set_xlabel("training tokens seen")
    axes.set_ylabel("held-out loss (nats a token),\nthe logarithm of perplexity")
    axes.grid(color="0.9")
    style.title(axes, "Held-out loss over training tokens",
                "mean of the seeds; bands: the lowest to the highest")
    style.legend(figure)
    return style.save(figure, path)


def curve(lines: Sequence[Mapping], key: str) -> list[tuple[int, float]]:
    """The held-out loss of a run over tokens seen, from the lines of metrics.jsonl.

    Args:
      key: of the loss in a line.
    """
    trained = sorted((line["step"], line["tokens"]) for line in lines if "tokens" in line)
    losses = {line["step"]: line[key] for line in lines if key in line}
    return [(int(sum(tokens for at, tokens in trained if at <= step)), losses[step])
            for step in sorted(losses)]


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, low, high = (f"{value:,.{digits}f}" for value in (fmean(known), min(known), max(known)))
    return mean if low == high else f"{mean} ({low}-{high})"
