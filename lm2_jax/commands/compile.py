"""`lm2 compile`: compiles the programs of a config for devices that need not be present."""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.commands import arguments
from lm2_jax.config import Config, ModelConfig, TrainConfig, files
from lm2_jax.config.evaluation import parse_length
from lm2_jax.config.model import REMAT_POLICIES
from lm2_jax.errors import UserError
from lm2_jax.generation import engine
from lm2_jax.generation.reading import places_for
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import collectives, compilation, flops
from lm2_jax.runtime import meshes, paths, topologies
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import replacing
from lm2_jax.runtime.meshes import micro_batches
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch

STEPS = ("train", "eval")


def compile_steps(config: Config, name: str, topology: str, steps: Collection[str] = STEPS,
                  out: str | Path | None = None, console: Console | None = None) -> bool:
    """Compiles the training step and the programs of the evaluation; prints a report.

    No array of the model's size is allocated. The training step is that of the curriculum stage
    with the most tokens per device and micro-batch.

    Args:
      name: of the config, for the report.
      topology: a name that `topologies.find` takes, as "v5e:4x4".
      out: a .json file for the report, or a .md file for a table of all reports in its folder;
        None writes no file.

    Returns:
      Whether every program fits into the memory of a device; True where that is unknown.

    Raises:
      UserError: if the vocabulary size, the topology or `out` is not usable.
    """
    console = console or Console()
    if out is not None and paths.of(out).suffix not in (".json", ".md"):
        raise UserError(f"--out is {str(out)!r}; it must end in .json or .md")
    report, found, mesh = _begin(config, name, topology, console)
    with partition.use(mesh):
        for title, traced in _programs(config, mesh, steps):
            step = _compiled(title, traced, found)
            report.steps.append(step)
            console.print(compilation.step_table(report, step))
    if out is not None:
        compilation.write(report, paths.of(out))
        console.print(str(out))
    return all(step.fits is not False for step in report.steps)


def compile_variants(config: Config, name: str, topology: str, out: str | Path | None = None,
                     console: Console | None = None) -> bool:
    """Compiles the training step for every rematerialisation setting; prints one table.

    The settings are the combinations of `model.remat` and `train.remat_segments`. The arguments
    are those of `compile_steps`, except that `out` is a .md file, to which the table is written.

    Returns:
      Whether the config's own setting fits into the memory of a device; True where that is unknown.

    Raises:
      UserError: if the vocabulary size, the topology or `out` is not usable.
    """
    console = console or Console()
    if out is not None and paths.of(out).suffix != ".md":
        raise UserError(f"--out is {str(out)!r}; with --variants it must end in .md")
    report, found, mesh = _begin(config, name, topology, console)
    segments, rows, parts = heaviest_stage(config, mesh)
    own = config.model.remat, config.train.remat_segments
    variants = []
    with partition.use(mesh):
        for remat, remat_segments in itertools.product(REMAT_POLICIES, (False, True)):
            title = f"model.remat={remat} train.remat_segments={remat_segments}"
            model = dataclasses.replace(config.model, remat=remat)
            train = dataclasses.replace(config.train, remat_segments=remat_segments)
            step = _compiled(title, training_step(model, train, mesh, rows=rows,
                                                  segments=segments), found)
            console.print(f"{title}: compiled in {step.seconds:.0f} s")
            variants.append(compilation.Variant(remat, remat_segments,
                                                (remat, remat_segments) == own, step))
    table = compilation.variants_table(variants)
    title = _training_title(config, segments, rows, parts)
    console.print(table.terminal(title))
    if out is not None:
        with replacing(out) as partial:
            partial.write_text(f"{compilation.heading(report)}; jax {report.jax}; {title}\n\n"
                               f"{table.markdown()}", "utf-8")
        console.print(str(out))
    return all(variant.step.fits is not False for variant in variants if variant.chosen)


def _begin(config: Config, name: str, topology: str, console: Console):
    """Returns an empty report, the topology and the mesh, and prints the heading."""
    if not config.model.vocab_size:
        raise UserError("model.vocab_size is 0 (the tokenizer's); to compile without one give it, "
                         "as --config.model.vocab_size=32000")
    found = topologies.find(topology)
    mesh = meshes.for_training(config, found.devices)
    report = compilation.Report(
        config=name, topology=topology, chip=found.kind, memory=found.memory,
        mesh={axis: int(size) for axis, size in mesh.shape.items()}, jax=jax.__version__,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(
            abstract_params(LanguageModel(config.model), mesh))))
    console.print(compilation.heading(report))
    return report, found, mesh


def heaviest_stage(config: Config, mesh: partition.AnyMesh) -> tuple[int, int, int]:
    """(segments, rows, micro-batches) of the stage with the most tokens per micro-batch."""
    stages = [(segments, rows, micro_batches(config.train, rows, mesh)) for (_, segments, *_), rows
              in zip(config.data.curriculum, config.batch_sizes(), strict=True)]
    return max(stages, key=lambda stage: (stage[0] * stage[1] // stage[2], stage))


def training_step(model: ModelConfig, config: TrainConfig, mesh: partition.AnyMesh, *, rows: int,
                  segments: int) -> jax.stages.Traced:
    """Traces the training step of a batch with `rows` rows of `segments` segments."""
    module, tx = LanguageModel(model), optimizer.make(config)
    state = train_state.abstract(module, tx, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(module, tx, config, mesh, shardings)
    return step.trace(state, _batch(rows, segments, model.segment_length, mesh))


def evaluation_steps(config: Config, mesh: partition.AnyMesh) -> dict[str, jax.stages.Traced]:
    """Traces the programs that the evaluation runs at its longest length, by name."""
    c, e = config.model, config.eval
    longest = max(map(parse_length, e.lengths))
    places = places_for(max(longest - 1, 0) // c.segment_length, e.max_new_tokens,
                               c.segment_length)
    params = abstract_params(LanguageModel(c), mesh)
    return engine.traced(LanguageModel(c), params, e.batch_size, places, mesh)


def _programs(config: Config, mesh: partition.AnyMesh, steps: Collection[str]):
    """Yields (title, traced program), tracing one at a time to save memory."""
    if "train" in steps:
        segments, rows, parts = heaviest_stage(config, mesh)
        yield (_training_title(config, segments, rows, parts),
               training_step(config.model, config.train, mesh, rows=rows, segments=segments))
    if "eval" in steps and config.eval.lengths:
        for what, traced in evaluation_steps(config, mesh).items():
            yield f"evaluation, {what}, {config.eval.batch_size} rows", traced


def _training_title(config: Config, segments: int, rows: int, parts: int) -> str:
    return (f"training step, {segments} segments of {config.model.segment_length} tokens, "
            f"{rows} rows in {parts} micro-batches")


def _batch(rows: int, segments: int, segment_length: int, mesh: partition.AnyMesh) -> Batch:
    """An abstract batch, its rows split over the batch axes of the mesh."""
    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype,
                                    sharding=partition.named(mesh, "act_batch", None))

    L = segments * segment_length
    return Batch(tokens_BL=of(jnp.int32, L), targets_BL=of(jnp.int32, L),
                 loss_weight_BL=of(jnp.float32, L), answer_BL=of(bool, L),
                 valid_BL=of(bool, L), reset_BS=of(bool, segments))


def _compiled(title: str, traced, topology: topologies.Topology) -> compilation.Step:
    """Compiles a traced program, or lowers it if there is no compiler for the topology."""
    start = time.perf_counter()
    step = compilation.Step(title=title, matrix_flops=flops.of_traced(traced))
    if topology.lowering:
        traced.lower(lowering_platforms=topology.lowering).as_text()
        return dataclasses.replace(step, seconds=time.perf_counter() - start)
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        message = compilation.out_of_memory(str(error))
        if message is None:
            raise
        return dataclasses.replace(step, seconds=time.perf_counter() - start, fits=False,
                                   error=message)
    sizes = compilation.memory(program.memory_analysis())
    return dataclasses.replace(
        step, seconds=time.perf_counter() - start, bytes=sizes,
        fits=None if topology.memory is None else sizes["peak"] <= topology.memory,
        collectives=[row._asdict() for row in collectives.find(program.as_text())])


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topology", required=True, metavar="NAME",
                        help="a TPU slice as v5e:4x4 (needs jax[tpu]), cpu:8, or gpu:8 (lowered)")
    parser.add_argument("--step", default="both", choices=(*STEPS, "both"),
                        help="what to compile (%(default)s)")
    parser.add_argument("--variants", action="store_true",
                        help="compare the training step for every model.remat and "
                             "train.remat_segments, in one table")
    parser.add_argument("--out", metavar="FILE",
                        help="report: .json, or .md with a table of all reports in its folder; "
                             "with --variants, .md with the table")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    if args.variants and args.step == "eval":
        raise UserError("--variants compares the training step: leave out --step=eval")
    config = files.load_config(args.config, overrides)
    if args.variants:
        return 0 if compile_variants(config, args.config, args.topology, args.out) else 1
    steps = STEPS if args.step == "both" else (args.step,)
    return 0 if compile_steps(config, args.config, args.topology, steps, args.out) else 1
