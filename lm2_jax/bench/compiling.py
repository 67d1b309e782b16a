"""`lm2 bench compile`: compile time and program size over the number of blocks and segments."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import jax

from lm2_jax import partition
from lm2_jax.config import Config
from lm2_jax.errors import UserError
from lm2_jax.report import hlo, programs, records
from lm2_jax.report.table import Table
from lm2_jax.runtime import compilation_cache, meshes, paths, topologies
from lm2_jax.runtime.console import Console

BLOCKS, SEGMENTS = (4, 16), (8, 64)


@dataclasses.dataclass(frozen=True)
class Size:
    """The training step of a model with so many blocks on rows of so many segments.

    Attributes:
      lowered: lines of the program that goes to the compiler.
      instructions: of the compiled program.
      seconds: CPU time of each compilation, of all threads, lowering included.
    """

    blocks: int
    segments: int
    lowered: int
    instructions: int
    seconds: Sequence[float]


@compilation_cache.disabled()
def run(config: Config, name: str, topology: str, repeats: int, out: str | Path,
        console: Console | None = None) -> list[Size]:
    """Compiles steps with few and with many blocks and segments; prints and writes the table.

    Every block has a memory if the config has one. The compilations of the steps alternate.

    Args:
      name: of the config, for the heading.
      topology: a name that `topologies.find` takes. On a single CPU device loops are unrolled, so
        that programs grow with the blocks and segments.
      repeats: compilations of each step.
      out: folder of compile.json and compile.md.

    Raises:
      UserError: if an argument cannot be used.
    """
    console = console or Console()
    if repeats < 1:
        raise UserError(f"--repeats is {repeats}; there must be 1 at least")
    found = topologies.find(topology)
    if found.lowering:
        raise UserError(f"there is no compiler for {topology} here; take a TPU slice or cpu:8")
    steps = [(BLOCKS[0], SEGMENTS[0]), (BLOCKS[1], SEGMENTS[0]), (BLOCKS[0], SEGMENTS[1])]
    sizes: dict[tuple[int, int], Size] = {}
    for _ in range(repeats):
        for step in steps:
            size = _compiled(config, found, *step)
            before = sizes[step].seconds if step in sizes else ()
            sizes[step] = dataclasses.replace(size, seconds=[*before, *size.seconds])
    rows = list(sizes.values())
    heading = f"{name}, training step for {topology}, jax {jax.__version__}"
    console.print(table(rows).terminal(heading))
    facts = {"config": name, "topology": topology, "jax": jax.__version__,
             "steps": [dataclasses.asdict(row) for row in rows]}
    for path in records.write(paths.of(out), "compile", facts, heading, table(rows)):
        console.print(str(path))
    return rows


def _compiled(config: Config, topology: topologies.Topology, blocks: int, segments: int) -> Size:
    model = dataclasses.replace(config.model, num_layers=blocks, memory=dataclasses.replace(
        config.model.memory, num_layers=blocks if config.model.memory.num_layers else 0))
    config = dataclasses.replace(config, model=model)
    mesh = meshes.for_training(config, topology.devices, evaluates=False)
    rows = config.batch_sizes()[-1]
    with partition.use(mesh):
        traced = programs.training_step(model, config.train, mesh, rows=rows, segments=segments)
        begun = time.process_time()
        lowered = traced.lower()
        program = lowered.compile()
        seconds = time.process_time() - begun
    return Size(blocks, segments, lowered.as_text().count("\n"),
                hlo.num_instructions(program.as_text()), [seconds])


def table(rows: Sequence[Size]) -> Table:
    """A row for each step, with ratios to the first."""
    first = rows[0]

    def cells(row: Size) -> list[str]:
        ratios = [own / other for own, other in zip(row.seconds, first.seconds, strict=True)]
        return [f"{row.blocks}", f"{row.segments}", f"{row.lowered:,}",
                f"{row.lowered / first.lowered:.2f}", f"{row.instructions:,}",
                f"{row.instructions / first.instructions:.2f}", f"{median(row.seconds):.2f}",
                f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"]

    return Table(["blocks", "segments", "lines\nlowered", "ratio", "instructions", "ratio",
                  "CPU seconds", "ratio\n(lowest-highest)"], [[cells(row) for row in rows]],
                 text_columns=0, note="Medians of compilations in turns; ratios to the first row.")
