"""What a wavefront over the stages of a mesh must cost, by arithmetic, beside what was compiled."""

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.config import Config, ModelConfig
from lm2_jax.model import memory as memories
from lm2_jax.model import wavefront
from lm2_jax.model.lm import init_state
from lm2_jax.report import collectives, groups


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a program that reads segments; bytes are those of one device.

    Attributes:
      devices: of the mesh.
      stages: of the mesh.
      segments: that enter it, in each micro-batch.
      ticks: of each micro-batch.
      micro_batches: in a run of the program.
      signal: bytes of the residual stream that a stage passes to the next one in a tick.
      exchanges: how often that happens in a run.
      kept: bytes that the backward pass keeps of all ticks of a micro-batch; 0 without gradients.
      ways: devices that split heads. The compiler may split a signal over them while it is passed.
      found_exchanges: between stages in the compiled program, of at least `signal / ways` bytes;
        None if it was not compiled.
      found_bytes: of these.
    """

    devices: int
    stages: int
    segments: int
    ticks: int
    micro_batches: int
    signal: int
    exchanges: int
    kept: int
    ways: int = 1
    found_exchanges: int | None = None
    found_bytes: int | None = None

    @property
    def bubble(self) -> float:
        """The share of the ticks of a stage in which it has no segment to read."""
        return 1 - self.segments / self.ticks


def expected(config: ModelConfig, mesh: partition.AnyMesh, segments: int, rows: int,
             micro_batches: int = 1, passes: int = 3) -> Pipeline | None:
    """Returns what the arithmetic says; None for a mesh without stages.

    S segments take S + K - 1 ticks in each stack of K stages. In each tick the stages of every
    stack pass on once what they have read; what the last one has read leaves by a sum over the
    stages, which is not an exchange. The backward pass passes the gradients back; where segments
    are rematerialised, it first repeats the exchanges. It keeps what is carried from tick to tick:
    the signals and the state, and the output of the last block. (Compiled for a TPU, a
    rematerialised tick has one exchange more: the slice that wraps around in the rotation.)

    Args:
      rows: of all micro-batches.
      micro_batches: in a run.
      passes: over the segments: 1 without gradients, 2 with them, 3 with `train.remat_segments`.
    """
    K = mesh.shape.get(partition.STAGE, 1)
    if K == 1:
        return None
    c, stacks = config, len(config.stacks)
    ticks = segments + wavefront.ramp((K,) * stacks)
    rows //= micro_batches
    tokens = c.segment_length + memories.num_memory_tokens(c)
    signal = (rows // partition.rows_per_step(mesh) * tokens * c.embed_dim
              * jnp.dtype(c.dtype).itemsize)

    def on_a_device(a, *names):
        return math.prod(partition.named(mesh, *names).shard_shape(a.shape)) * a.dtype.itemsize

    window = (segments - 1) * c.segment_length
    pipe = jax.eval_shape(lambda: wavefront.begin(c, init_state(c, rows, window), rows,
                                                  (K,) * stacks))
    carried = sum(jax.tree.leaves(wavefront.pipe_with_axes(on_a_device, pipe)))
    return Pipeline(mesh.size, K, segments, ticks, micro_batches, signal,
                    ticks * stacks * micro_batches * passes,
                    ticks * (carried + signal) if passes > 1 else 0,
                    partition.ways(mesh, "heads"))


def facts(config: Config, mesh: partition.AnyMesh, segments: int, rows: int,
          micro_batches: int) -> dict:
    """Returns what is `expected` of a training step, for its `Step`; empty without stages."""
    found = expected(config.model, mesh, segments, rows, micro_batches,
                     passes=3 if config.train.remat_segments else 2)
    return dataclasses.asdict(found) if found else {}


def with_found(facts: dict, hlo: str) -> dict:
    """Returns `facts` with the exchanges between stages of a compiled program.

    These are its collective permutes between devices in the same place of different stages: the
    devices of a stage have consecutive numbers, since stages are the first axis of the mesh.
    """
    if not facts:
        return {}
    size, least = facts["devices"] // facts["stages"], facts["signal"] // facts["ways"]
    found = [one for one in collectives.each(hlo)
             if one.kind == "collective-permute" and one.bytes >= least  # not those of masks
             and all(a != b and a % size == b % size for a, b in groups.of(one.line))]
    return {**facts, "found_exchanges": sum(one.runs for one in found),
            "found_bytes": sum(one.runs * one.bytes for one in found)}


def lines(pipeline: Pipeline) -> list[str]:
    """What there is to say of it, a sentence each."""
    p, found = pipeline, ""
    if p.found_exchanges is not None:
        found = (f"; the program has {p.found_exchanges:,}, "
                 f"{(p.found_bytes or 0) / 2**30:.2f} GiB")
    kept = (f" The backward pass keeps {p.kept / 2**30:.2f} GiB a device of what is carried from "
            "tick to tick." if p.kept else "")
    return [f"Pipeline of {p.stages} stages: {p.segments} segments take {p.ticks} ticks, "
            f"{p.micro_batches} times; bubble {100 * p.bubble:.1f} %.{kept}",
            f"Exchanges between stages: {p.exchanges:,} of {p.signal / 2**20:.2f} MiB expected, "
            f"{p.exchanges * p.signal / 2**30:.2f} GiB{found}."]
