"""`lm2 compile`: the steps of a config compiled for devices that need not be there."""

import argparse
import dataclasses
import time
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.commands import arguments
from lm2_jax.config import Config, ModelConfig, TrainConfig, files
from lm2_jax.config.evaluation import parse_length
from lm2_jax.errors import UserError
from lm2_jax.eval import stream
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import collectives, compilation, flops
from lm2_jax.runtime import meshes, topologies
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.meshes import micro_batches
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch

STEPS = ("train", "eval")


def compile_steps(config: Config, name: str, topology: str, steps: Collection[str] = STEPS,
                  out: str | Path | None = None, console: Console | None = None) -> bool:
    """Compiles the training step and what the evaluation runs; prints, and writes, the report.

    No array of the model's size is made. Of the training step the heaviest stage of the curriculum
    is compiled: the most tokens of one device at a time.

    Args:
      name: of the config, for the report.
      topology: as `topologies.find` takes it.
      out: a .json file, or a .md file of all reports that lie beside it; None = neither.

    Returns:
      Whether everything fits into the memory of a device, as far as that is known.
    """
    console = console or Console()
    if not config.model.vocab_size:
        raise UserError("model.vocab_size is 0 (the tokenizer's); to compile without one give it, "
                         "as --config.model.vocab_size=32000")
    if out is not None and Path(out).suffix not in (".json", ".md"):
        raise UserError(f"--out is {str(out)!r}; it must end in .json or .md")
    found = topologies.find(topology)
    mesh = meshes.for_training(config, found.devices)
    report = compilation.Report(
        config=name, topology=topology, chip=found.kind, memory=found.memory,
        mesh={axis: int(size) for axis, size in mesh.shape.items()}, jax=jax.__version__,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(
            abstract_params(LanguageModel(config.model), mesh))))
    console.print(compilation.heading(report))
    with partition.use(mesh):
        for title, traced in _programs(config, mesh, steps):
            step = _compiled(title, traced, found)
            report.steps.append(step)
            console.print(compilation.step_table(report, step))
    if out is not None:
        compilation.write(report, Path(out))
        console.print(str(out))
    return all(step.fits is not False for step in report.steps)


def heaviest_stage(config: Config, mesh: partition.AnyMesh) -> tuple[int, int, int]:
    """(segments, rows, micro-batches) of the stage with the most tokens on a device at a time."""
    stages = [(segments, rows, micro_batches(config.train, rows, mesh)) for (_, segments, *_), rows
              in zip(config.data.curriculum, config.batch_sizes(), strict=True)]
    return max(stages, key=lambda stage: (stage[0] * stage[1] // stage[2], stage))


def training_step(model: ModelConfig, config: TrainConfig, mesh: partition.AnyMesh, *, rows: int,
                  segments: int) -> jax.stages.Traced:
    """The training step of so many rows of so many segments, traced."""
    module = LanguageModel(model)
    state = train_state.abstract(module, optimizer.make(config), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(module, config, mesh, shardings)
    return step.trace(state, _batch(rows, segments, model.segment_length, mesh))


def evaluation_steps(config: Config, mesh: partition.AnyMesh) -> dict[str, jax.stages.Traced]:
    """What the evaluation of the configured lengths runs, traced."""
    c, e = config.model, config.eval
    longest = max(map(parse_length, e.lengths))
    places = stream.places_for(max(longest - 1, 0) // c.segment_length, e.max_new_tokens,
                               c.segment_length)
    params = abstract_params(LanguageModel(c), mesh)
    return stream.traced(LanguageModel(c), params, e.batch_size, places, mesh)


def _programs(config: Config, mesh: partition.AnyMesh, steps: Collection[str]):
    """(title, traced) of each program, one at a time."""
    if "train" in steps:
        segments, rows, parts = heaviest_stage(config, mesh)
        title = (f"training step, {segments} segments of {config.model.segment_length} tokens, "
                 f"{rows} rows in {parts} micro-batches")
        yield title, training_step(config.model, config.train, mesh, rows=rows, segments=segments)
    if "eval" in steps:
        for what, traced in evaluation_steps(config, mesh).items():
            yield f"evaluation, {what}, {config.eval.batch_size} rows", traced


def _batch(rows: int, segments: int, segment_length: int, mesh: partition.AnyMesh) -> Batch:
    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype,
                                    sharding=partition.named(mesh, "act_batch", None))

    L = segments * segment_length
    return Batch(tokens_BL=of(jnp.int32, L), targets_BL=of(jnp.int32, L),
                 loss_weight_BL=of(jnp.float32, L), answer_BL=of(bool, L),
                 valid_BL=of(bool, L), reset_BS=of(bool, segments))


def _compiled(title: str, traced, topology: topologies.Topology) -> compilation.Step:
    begun = time.perf_counter()
    step = compilation.Step(title=title, matrix_flops=flops.of_traced(traced))
    if topology.lowering:
        traced.lower(lowering_platforms=topology.lowering).as_text()
        return dataclasses.replace(step, seconds=time.perf_counter() - begun)
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = compilation.out_of_memory(str(error))
        if wanted is None:
            raise
        return dataclasses.replace(step, seconds=time.perf_counter() - begun, fits=False,
                                   error=wanted)
    sizes = compilation.memory(program.memory_analysis())
    return dataclasses.replace(
        step, seconds=time.perf_counter() - begun, bytes=sizes,
        fits=None if topology.memory is None else sizes["peak"] <= topology.memory,
        collectives=[row._asdict() for row in collectives.find(program.as_text())])


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topology", required=True, metavar="NAME",
                        help="a TPU slice as v5e:4x4 (needs jax[tpu]), cpu:8, or gpu:8 (lowered)")
    parser.add_argument("--step", default="both", choices=(*STEPS, "both"),
                        help="what to compile (%(default)s)")
    parser.add_argument("--out", metavar="FILE",
                        help="report: .json, or .md with the table of all reports beside it")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    fits = compile_steps(files.load_config(args.config, overrides), args.config, args.topology,
                         STEPS if args.step == "both" else (args.step,), args.out)
    return 0 if fits else 1
