"""`lm2 compile`: compiles the programs of a config for devices that need not be present."""

import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path

from lm2_jax import partition
from lm2_jax.commands import arguments
from lm2_jax.config import Config, files
from lm2_jax.errors import UserError
from lm2_jax.report import compilation, pipeline, programs
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console

STEPS = ("train", "eval")


def compile_steps(config: Config, name: str, topology: str, steps: Collection[str] = STEPS,
                  out: str | Path | None = None, console: Console | None = None,
                  slices: int = 1, quick: bool = False) -> bool:
    """Compiles the training step and the programs of the evaluation; prints a report.

    No array of the model's size is allocated. The training step is that of the curriculum stage
    with the most tokens per device and micro-batch. The report is written after each program, and
    a program that it has already is not compiled again.

    Args:
      name: of the config, for the report.
      topology: a name that `topologies.find` takes, as "v5e:4x4".
      out: a .json file for the report, or a .md file for a table of all reports in its folder;
        None writes no file.
      slices: number of such TPU slices; what crosses them is listed.
      quick: whether to compile with the least effort (`programs.compile_quickly`).

    Returns:
      Whether every program fits into the memory of a device; True where that is unknown.

    Raises:
      UserError: if the vocabulary size, the topology or `out` is not usable.
    """
    console = console or Console()
    if out is not None and paths.of(out).suffix not in (".json", ".md"):
        raise UserError(f"--out is {str(out)!r}; it must end in .json or .md")
    if quick:
        programs.compile_quickly()
    report, found, mesh = programs.begin(config, name, topology, slices)
    console.print(compilation.heading(report))
    known = {} if out is None else compilation.known(report, paths.of(out))
    with partition.use(mesh):
        for traced, step in _programs(config, mesh, steps):
            digest = programs.digest(traced, found)
            step = known.get(digest) or dataclasses.replace(
                programs.compiled(traced, step, found, mesh), digest=digest)
            report.steps.append(step)
            if out is not None:
                compilation.write(report, paths.of(out))
            console.print(compilation.step_table(report, step))
            for line in step.crossing:
                console.print(f"  crosses slices: {line}")
            if step.pipeline:
                console.print(*pipeline.lines(pipeline.Pipeline(**step.pipeline)), sep="\n")
    if out is not None:
        console.print(str(out))
    return all(step.fits is not False for step in report.steps)


def _programs(config: Config, mesh: partition.AnyMesh, steps: Collection[str]):
    """Yields traced programs and their steps, tracing one at a time to save memory."""
    if "train" in steps:
        yield programs.training(config, mesh)
    if "eval" in steps:
        yield from programs.evaluation(config, mesh)


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topology", required=True, metavar="NAME",
                        help="a TPU slice as v5e:4x4 (needs jax[tpu]), h100:8 (needs "
                             "jax[cuda]), cpu:8, or gpu:8 (lowered)")
    parser.add_argument("--slices", type=int, default=1, metavar="N",
                        help="compile for so many of these TPU slices, and list the collectives "
                             "between them")
    parser.add_argument("--step", default="both", choices=(*STEPS, "both"),
                        help="what to compile (%(default)s)")
    parser.add_argument("--quick", action="store_true",
                        help="compile with the least effort, in a seventh of the time: memory "
                             "traffic can be a quarter more")
    parser.add_argument("--out", metavar="FILE",
                        help="report: .json, or .md with a table of all reports in its folder")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    config = files.load_config(args.config, overrides)
    steps = STEPS if args.step == "both" else (args.step,)
    fit = compile_steps(config, args.config, args.topology, steps, args.out, slices=args.slices,
                        quick=args.quick)
    return 0 if fit else 1
