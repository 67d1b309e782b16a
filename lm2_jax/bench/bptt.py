"""`lm2 bench bptt`: how many segments of backpropagation through time fit into a device."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from lm2_jax import partition
from lm2_jax.config import Config, files
from lm2_jax.errors import UserError
from lm2_jax.report import compilation, programs, records
from lm2_jax.report.compilation import size
from lm2_jax.report.table import Table
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console

VARIANTS = {"banks in float32": {}, "banks in bfloat16": {"model.memory.bank_dtype": "bfloat16"}}


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant of a config on a topology, with as few rows as the mesh allows: one for each part
    of the batch.

    Attributes:
      variant: its name.
      topology: as "v5e:4x4".
      mesh: size of each mesh axis.
      segment_length: tokens.
      memory: bytes of a device that may be used.
      peaks: bytes of a device that the compiled training step needs, by the number of segments.
      jax: version.
      date: of the compilation.
    """

    variant: str
    topology: str
    mesh: dict[str, int]
    segment_length: int
    memory: int
    peaks: dict[int, int]
    jax: str
    date: str

    @property
    def per_segment(self) -> float:
        """Bytes that a segment adds, between the two numbers of segments compiled first."""
        (few, low), (many, high) = list(self.peaks.items())[:2]
        return (high - low) / (many - few)

    @property
    def longest(self) -> int:
        """The most segments whose step needs no more than `memory`, on the line through both."""
        few, low = next(iter(self.peaks.items()))
        return max(0, few + int((self.memory - low) // self.per_segment))


def run(path: str, overrides: Mapping[str, str], topology: str, segments: Sequence[int],
        out: str | Path, memory: float | None = None, quick: bool = False,
        console: Console | None = None) -> list[Row]:
    """Compiles the training step for two numbers of segments; prints and writes the table.

    The memory of the compiled step grows by the same amount with each segment, since the segments
    are a loop, except for few segments, where other parts of the step need the most. Both VARIANTS
    are compiled; nothing is run.

    Args:
      path: or name of the config.
      overrides: as `files.load_config` takes them.
      topology: as "v5e:4x4", with a compiler on this machine.
      segments: two numbers, or more, which are compiled too, to check the line through the first
        two.
      out: folder of bptt.json and bptt.md, to which rows of other topologies and meshes are added.
      memory: GB (10^9 bytes) of a device; None for that of the topology. Another number estimates
        a device of that size by the programs of this topology.
      quick: whether to compile with the least effort.

    Raises:
      UserError: if an argument is not usable, or the memory of a device is not known.
    """
    console, out = console or Console(), paths.of(out)
    if len(segments) < 2 or len(set(segments)) < len(segments) or min(segments) < 1:
        raise UserError(f"--segments is {','.join(map(str, segments))!r}; it must be two different "
                        "numbers from 1 on, as 8,16")
    if quick:
        programs.compile_quickly()
    rows = []
    for name, changes in VARIANTS.items():
        config = files.load_config(path, {**overrides, **changes})
        rows.append(_row(config, path, name, topology, segments, memory, console))
    known = {(row.variant, row.topology, *row.mesh.values(), row.memory): row
             for row in (*read_rows(out / "bptt.json"), *rows)}
    records.write(out, "bptt", [dataclasses.asdict(row) for row in known.values()],
                  f"{path}, training step, compiled and not run", table(list(known.values())))
    console.print(table(rows).terminal(path))
    return rows


def _row(config: Config, path: str, variant: str, topology: str, segments: Sequence[int],
         memory: float | None, console: Console) -> Row:
    report, found, mesh = programs.begin(config, path, topology)
    available = found.memory if memory is None else int(memory * 1e9)
    if available is None or found.lowering:
        raise UserError(f"the memory of {topology} is not known; give --memory=GB, and a topology "
                        "with a compiler on this machine")
    peaks = {}
    with partition.use(mesh):
        for count in segments:
            traced = programs.training_step(config.model, config.train, mesh,
                                            rows=partition.rows_per_step(mesh), segments=count)
            analysis = traced.lower().compile().memory_analysis()
            peaks[count] = compilation.memory(analysis)["peak"]
            console.print(f"{topology}, {variant}, {count} segments: {size(peaks[count])}")
    return Row(variant, topology, report.mesh, config.model.segment_length, available, peaks,
               jax.__version__, records.today())


def read_rows(path: Path) -> list[Row]:
    """Reads a bptt.json; [] if there is none."""
    if not path.exists():
        return []
    return [Row(**row | {"peaks": {int(count): peak for count, peak in row["peaks"].items()}})
            for row in json.loads(path.read_text("utf-8"))]


def table(rows: Sequence[Row]) -> Table:
    """A row for each variant, topology and mesh."""
    cells = [[row.topology, " x ".join(map(str, row.mesh.values())), row.variant, size(row.memory),
              "; ".join(f"{count}: {size(peak)}" for count, peak in row.peaks.items()),
              size(round(row.per_segment)), str(row.longest),
              f"{row.longest * row.segment_length:,}", row.jax, row.date] for row in rows]
    return Table(["topology", "mesh", "variant", "of", "peak by\nsegments", "a segment",
                  "longest,\nsegments", "tokens", "jax", "date"], [cells], text_columns=3,
                 note="Bytes of a device, by XLA's analysis of the compiled step. The longest is "
                      "where the line through the first two numbers of segments meets the memory "
                      "of a device, with one row for each way in which rows are split.")
