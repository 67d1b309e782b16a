"""What a memory costs over its backbone: the table and the plot of `lm2 bench costs`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from lm2_jax.report import records, style
from lm2_jax.report.table import Table

MB = 1e6


@dataclass(frozen=True)
class Pair:
    """One piece of work, by the model with its memory and by its backbone, in this order.

    Attributes:
      what: such as "read 4k".
      tokens: of the work.
      flops: per token, by the model's own count.
      seconds: of each repetition. The measurements of the two models alternate, so that those of
        one repetition belong together.
      memory: peak bytes of the compiled program on a device.
    """

    what: str
    tokens: int
    flops: tuple[float, float]
    seconds: tuple[Sequence[float], Sequence[float]]
    memory: tuple[int, int]

    @property
    def time_ratios(self) -> list[float]:
        """Time with the memory over time of the backbone, for each repetition."""
        return [a / b for a, b in zip(*self.seconds, strict=True)]


@dataclass(frozen=True)
class Costs:
    """The measurements of a config on a device.

    Attributes:
      config: name of the config.
      device: kind of the device that the work ran on.
      parameters: of the model with its memory, and of its backbone.
    """

    config: str
    device: str
    parameters: tuple[int, int]
    pairs: Sequence[Pair]


def heading(costs: Costs) -> str:
    """One line with the config, the device and the parameters."""
    own, backbone = costs.parameters
    return (f"{costs.config} on one {costs.device}: {own:,} parameters, {backbone:,} without the "
            f"memory, ratio {own / backbone:.3f}")


def table(costs: Costs) -> Table:
    """A row for each piece of work. Times are medians; the ratio of times is the median over the
    repetitions, with the lowest and the highest."""
    rows = []
    for pair in costs.pairs:
        ratios = pair.time_ratios
        rows.append([
            pair.what, f"{pair.tokens:,}", f"{pair.flops[0]:,.0f}", f"{_ratio(pair.flops):.2f}",
            *(f"{1e6 * median(seconds) / pair.tokens:,.2f}" for seconds in pair.seconds),
            f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            *(f"{size / MB:,.1f}" for size in pair.memory), f"{_ratio(pair.memory):.2f}"])
    return Table(["work", "tokens", "FLOPs\na token", "ratio", "µs a token", "backbone\nµs a token",
                  "ratio\n(lowest-highest)", "peak MB", "backbone\npeak MB", "ratio"], [rows],
                 note="Ratios are this model over the same one with memory.num_layers = 0. FLOPs "
                 "are the model's own count. Peak memory is that of the compiled program, by XLA's "
                 "plan: arguments, results and temporaries.")


def write(folder: Path, costs: Costs) -> list[Path]:
    """Writes costs.json, costs.md and costs.png; returns their paths."""
    written = records.write(folder, "costs", dataclasses.asdict(costs), heading(costs),
                            table(costs), indent=2)
    return [*written, plot(costs, folder / "costs.png")]


def plot(costs: Costs, path: Path) -> Path:
    """Draws the ratios of FLOPs, time and memory for each piece of work."""
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes, at = figure.add_subplot(), range(len(costs.pairs))
    times = [median(pair.time_ratios) for pair in costs.pairs]
    for index, (label, ratios) in enumerate({
            "time (bars: lowest and highest of the repetitions)": times,
            "FLOPs": [_ratio(pair.flops) for pair in costs.pairs],
            "peak memory": [_ratio(pair.memory) for pair in costs.pairs]}.items()):
        axes.plot(at, ratios, label=label, **style.series(index) | dict(linewidth=0.8))
    low = [time - min(pair.time_ratios) for time, pair in zip(times, costs.pairs, strict=True)]
    high = [max(pair.time_ratios) - time for time, pair in zip(times, costs.pairs, strict=True)]
    axes.errorbar(at, times, [low, high], fmt="none", capsize=3, elinewidth=1,
                  ecolor=style.series(0)["color"])
    axes.axhline(1, color="black", linewidth=1, label="the backbone")
    axes.set_xticks(at, [pair.what.replace(" ", "\n", 1) for pair in costs.pairs])
    axes.set_ylabel("ratio to the backbone")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    style.legend(figure)
    style.title(axes, "Cost of the memory", style.literal(heading(costs)))
    return style.save(figure, path)


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]
