"""The programs of a config, traced for a mesh and compiled for devices that need not be present."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.config import Config, ModelConfig, TrainConfig
from lm2_jax.config.evaluation import parse_length
from lm2_jax.errors import UserError
from lm2_jax.generation import engine
from lm2_jax.generation.reading import places_for
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import (
    collectives,
    compilation,
    crossing,
    flops,
    pipeline,
    records,
    roofline,
    traffic,
)
from lm2_jax.report import hlo as texts
from lm2_jax.runtime import meshes, topologies
from lm2_jax.runtime.meshes import micro_batches
from lm2_jax.training import clock, optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch

# jax 0.12 has a level of optimization in the place of an effort.
EFFORT, LEVEL = "jax_exec_time_optimization_effort", "jax_optimization_level"


def begin(config: Config, name: str, topology: str, slices: int = 1
          ) -> tuple[compilation.Report, topologies.Topology, partition.AnyMesh]:
    """Returns a report without programs, the topology, and the mesh of the config on it.

    Args:
      name: of the config, for the report.
      topology: a name that `topologies.find` takes, as "v5e:4x4".
      slices: number of such TPU slices.

    Raises:
      UserError: if the vocabulary size or the topology is not usable.
    """
    if not config.model.vocab_size:
        raise UserError("model.vocab_size is 0 (the tokenizer's); to compile without one give it, "
                         "as --config.model.vocab_size=32000")
    found = topologies.find(topology, slices)
    mesh = meshes.for_training(config, found.devices)
    report = compilation.Report(
        config=name, topology=found.name, chip=found.kind, memory=found.memory,
        mesh={axis: int(size) for axis, size in mesh.shape.items()}, jax=jax.__version__,
        date=records.today(), effort=_effort(),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(
            abstract_params(LanguageModel(config.model), mesh))))
    return report, found, mesh


def compile_quickly() -> None:
    """Has this process compile with the least effort, in about a seventh of the time.

    FLOPs and collectives stay as they are; memory traffic can be a quarter more.
    """
    if hasattr(jax.config, EFFORT):
        jax.config.update(EFFORT, -1.0)
    else:
        jax.config.update(LEVEL, "O0")


def _effort() -> float:
    """The effort of the compiler: -1 is the least, 0 the default."""
    if hasattr(jax.config, EFFORT):
        return getattr(jax.config, EFFORT)
    return -1.0 if str(getattr(jax.config, LEVEL)).endswith("O0") else 0.0


def digest(traced: jax.stages.Traced, topology: topologies.Topology) -> str:
    """SHA-256 (hex) of the program as it goes to the compiler, and of the compiler's version."""
    lowered = traced.lower(lowering_platforms=topology.lowering or None)
    text = f"{jax.__version__} {topology.kind} {_effort()} {lowered.as_text()}"
    return hashlib.sha256(text.encode()).hexdigest()


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


def training_title(config: Config, segments: int, rows: int, parts: int) -> str:
    """Names the training step of such a batch in tables."""
    return (f"training step, {segments} segments of {config.model.segment_length} tokens, "
            f"{rows} rows in {parts} micro-batches")


def training(config: Config, mesh: partition.AnyMesh
             ) -> tuple[jax.stages.Traced, compilation.Step]:
    """Traces the step of `heaviest_stage`; returns it with a `Step` of the figures of the trace."""
    segments, rows, parts = heaviest_stage(config, mesh)

    def traced(model: ModelConfig, train: TrainConfig) -> jax.stages.Traced:
        return training_step(model, train, mesh, rows=rows, segments=segments)

    step = traced(config.model, config.train)
    once = traced(dataclasses.replace(config.model, remat="none"), dataclasses.replace(
        config.train, remat_segments=False, loss_chunk_tokens=0))
    computed = flops.of_traced(step)
    tokens = rows * segments * config.model.segment_length
    return step, compilation.Step(
        title=training_title(config, segments, rows, parts), matrix_flops=computed,
        recomputed=computed - flops.of_traced(once),
        model_flops=clock.flops_per_token(config.model) * tokens,
        pipeline=pipeline.facts(config, mesh, segments, rows, parts))


def evaluation(config: Config, mesh: partition.AnyMesh
               ) -> Iterator[tuple[jax.stages.Traced, compilation.Step]]:
    """Yields the programs of the evaluation in the form of `training`."""
    if config.eval.lengths:
        for what, traced in evaluation_steps(config, mesh).items():
            title = f"evaluation, {what}, {config.eval.batch_size} rows"
            yield traced, compilation.Step(title, matrix_flops=flops.of_traced(traced))


def compiled(traced: jax.stages.Traced, step: compilation.Step, topology: topologies.Topology,
             mesh: partition.AnyMesh) -> compilation.Step:
    """Compiles a traced program, or lowers it if there is no compiler for the topology.

    Args:
      step: the figures of the trace.

    Returns:
      The step with the figures of the compiled program added.
    """
    start = time.perf_counter()
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
    seconds, hlo = time.perf_counter() - start, program.as_text()
    slices = partition.slices(mesh)
    sizes, done = compilation.memory(program.memory_analysis()), traffic.of_program(hlo)
    exchanged = list(collectives.each(hlo))
    own_flops = done.flops + flops.of_kernels(traced) // mesh.size
    bound = _bound(topology, mesh, own_flops, done.bytes, exchanged)
    return dataclasses.replace(
        step, seconds=seconds, bytes=sizes,
        fits=None if topology.memory is None else sizes["peak"] <= topology.memory,
        flops=own_flops, moved=done.bytes,
        received=math.ceil(sum(one.runs * one.received for one in exchanged)),
        bound={} if bound is None else dataclasses.asdict(bound),
        instructions=texts.num_instructions(hlo),
        collectives=[row._asdict() for row in collectives.find(hlo)],
        crossing=[str(one) for one in crossing.find(hlo, slices)] if slices else [],
        pipeline=pipeline.with_found(step.pipeline, hlo))


def _bound(topology: topologies.Topology, mesh: partition.AnyMesh, own_flops: int, moved: int,
           exchanged: list[collectives.Collective]) -> roofline.Bound | None:
    if partition.slices(mesh):  # the speed of the network between them is not known
        return None
    peaks, exchange = roofline.chip(topology.kind), 0.0
    if peaks is not None and peaks.link and mesh.size > 1:
        coordinates = [device.coords for device in mesh.devices.flat]
        exchange = roofline.exchange_seconds(exchanged, peaks, coordinates)
    return roofline.bound(topology.kind, own_flops, moved, exchange)


def _batch(rows: int, segments: int, segment_length: int, mesh: partition.AnyMesh) -> Batch:
    """An abstract batch, its rows split over the batch axes of the mesh."""
    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype,
                                    sharding=partition.named(mesh, "act_batch", None))

    L = segments * segment_length
    return Batch(tokens_BL=of(jnp.int32, L), targets_BL=of(jnp.int32, L),
                 loss_weight_BL=of(jnp.float32, L), answer_BL=of(bool, L),
                 valid_BL=of(bool, L), reset_BS=of(bool, segments))
