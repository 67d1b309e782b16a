"""Time and memory over the length of the context: the table and the plot of `lm2 bench context`."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from lm2_jax.report import records, style
from lm2_jax.report.table import Table

LINEAR_FROM = 2**14  # tokens from which the exponent of time and the spread of memory are taken
MB = 1e6


@dataclass(frozen=True)
class Point:
    """One model at one length.

    Attributes:
      model: its name.
      length: as "16k".
      tokens: of the context.
      seconds: of each repetition; none where it could not be read.
      peak: the most bytes of memory while the context was read.
      failure: why it could not be read, as "over 10 min"; "" if it was.
    """

    model: str
    length: str
    tokens: int
    seconds: Sequence[float] = ()
    peak: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Contexts:
    """What was measured.

    Attributes:
      facts: the device, versions and limits, for the heading; and the config.
      lm2: names of LM2 by the two schedules, the sequential one first.
      full: name of the model that reads in one call.
      points: in the order of the table: by model, and by length.
    """

    facts: dict
    lm2: tuple[str, str]
    full: str
    points: Sequence[Point]

    def of(self, model: str) -> list[Point]:
        """The points of a model that were read, by rising length."""
        return sorted((p for p in self.points if p.model == model and p.seconds),
                      key=lambda p: p.tokens)


def exponent(points: Sequence[Point]) -> float | None:
    """The exponent of time over length, fitted from LINEAR_FROM tokens on by least squares of the
    logarithms; None of fewer than two points."""
    long = [p for p in points if p.tokens >= LINEAR_FROM]
    if len(long) < 2:
        return None
    return float(np.polyfit(np.log([p.tokens for p in long]),
                            np.log([median(p.seconds) for p in long]), 1)[0])


def memory_spread(points: Sequence[Point]) -> float | None:
    """The largest peak over the smallest from LINEAR_FROM tokens on; None of fewer than two."""
    peaks = [p.peak for p in points if p.tokens >= LINEAR_FROM]
    return max(peaks) / min(peaks) if len(peaks) > 1 else None


def crossing(fast: Sequence[Point], slow: Sequence[Point]) -> float | None:
    """The tokens from which on `fast` takes less time than `slow`, interpolated in logarithms
    between the lengths that both were read at; None if there is no such change between two."""
    other = {p.tokens: median(p.seconds) for p in slow}
    ratios = [(math.log(p.tokens), math.log(median(p.seconds) / other[p.tokens]))
              for p in fast if p.tokens in other]
    for (before, above), (after, below) in reversed(list(zip(ratios, ratios[1:], strict=False))):
        if above > 0 >= below:
            return math.exp(before + (after - before) * above / (above - below))
    return None


def sentences(found: Contexts) -> list[str]:
    """What the measurement says of LM2, one sentence each."""
    sequential, wavefront = map(found.of, found.lm2)
    said = []
    if (power := exponent(sequential)) is not None:
        said.append(f"The time of {found.lm2[0]} grows with length to the power {power:.3f} from "
                    f"{LINEAR_FROM // 1024}k to {sequential[-1].length}.")
    if (spread := memory_spread(sequential)) is not None:
        said.append(f"Its peak memory differs by {100 * (spread - 1):.1f} % over these lengths.")
    other = {p.tokens: p for p in wavefront}
    gains = [f"{median(p.seconds) / median(other[p.tokens].seconds):.2f} at {p.length}"
             for p in sequential if p.tokens in other]
    if gains:
        said.append(f"The rate of {found.lm2[1]} over {found.lm2[0]}: {', '.join(gains)} "
                    "(published for ARMT-1B on a GPU, arXiv 2506.05229: 1.25 at 4k, 2.39 at 16k, "
                    "3.20 at 64k).")
    at = crossing(sequential, found.of(found.full))
    full = found.of(found.full)
    both = [p for p in sequential if p.tokens in {q.tokens for q in full}]
    if at:
        said.append(f"{found.lm2[0]} is faster than {found.full} from about {at:,.0f} tokens on.")
    elif both:
        faster = median(both[0].seconds) < median(full[0].seconds)
        said.append(f"{found.lm2[0]} is {'faster' if faster else 'slower'} than {found.full} at "
                    "every length at which both were read.")
    return said


def heading(found: Contexts) -> str:
    """One line with the models, the device and the versions."""
    return "; ".join(str(found.facts[key]) for key in ("what", "device", "versions", "date"))


def table(found: Contexts) -> Table:
    """A row for each model and length; times are medians."""
    sequential = {p.tokens: median(p.seconds) for p in found.of(found.lm2[0])}
    sections = []
    for model in dict.fromkeys(p.model for p in found.points):
        rows = []
        for p in (p for p in found.points if p.model == model):
            if p.failure:
                rows.append([p.model, p.length, p.failure, "", "", "", ""])
                continue
            seconds, own = median(p.seconds), sequential.get(p.tokens)
            rows.append([p.model, p.length, f"{seconds:,.2f}",
                         f"{min(p.seconds):,.2f}-{max(p.seconds):,.2f}",
                         f"{p.tokens / seconds:,.0f}", f"{own / seconds:.2f}" if own else "",
                         f"{p.peak / MB:,.0f}"])
        sections.append(rows)
    return Table(["model", "context", "seconds", "lowest-highest", "tokens/s",
                  f"rate over\n{found.lm2[0]}", "peak MB"], sections, text_columns=2,
                 note=" ".join([found.facts["note"], *sentences(found)]))


def write(folder: Path, found: Contexts) -> list[Path]:
    """Writes context.json, context.md and context.png; returns their paths."""
    written = records.write(folder, "context", dataclasses.asdict(found), heading(found),
                            table(found))
    return [*written, plot(found, folder / "context.png")]


def read(path: Path) -> Contexts:
    """Reads a context.json."""
    values = json.loads(path.read_text("utf-8"))
    return Contexts(values["facts"], tuple(values["lm2"]), values["full"],
                    [Point(**{**point, "seconds": tuple(point["seconds"])})
                     for point in values["points"]])


def plot(found: Contexts, path: Path) -> Path:
    """Draws time and peak memory over length, both axes in log scale."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    names = list(dict.fromkeys(p.model for p in found.points))
    lengths = {p.length: p.tokens for p in found.points}
    for axes, what in zip(figure.subplots(1, 2), ("seconds", "peak memory in MB"), strict=True):
        for index, name in enumerate(names):
            points = found.of(name)
            axes.plot([p.tokens for p in points],
                      [median(p.seconds) if what == "seconds" else p.peak / MB for p in points],
                      label=name if what == "seconds" else None, **style.series(index))
        axes.set_yscale("log")
        # Memory spans less than a decade, so that minor ticks have numbers too.
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_minor_formatter(
            StrMethodFormatter("{x:,g}") if what != "seconds" else NullFormatter())
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(lengths.values()), list(lengths))
        axes.set_xlabel("tokens of the context")
        axes.set_ylabel(what)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    style.legend(figure)
    figure.suptitle(style.literal(heading(found)), fontsize="small")
    return style.save(figure, path)
