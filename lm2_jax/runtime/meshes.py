"""Makes the mesh of a config."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, Mesh

from lm2_jax import partition
from lm2_jax.config import Config, ModelConfig, TrainConfig
from lm2_jax.errors import UserError

Devices = Sequence[jax.Device] | int | None
"""The devices; the number of abstract ones; or None for all devices of JAX."""


def for_training(config: Config, devices: Devices = None) -> Mesh | AbstractMesh:
    """Returns the mesh for training.

    Raises:
      UserError: if a training batch, a micro-batch or an evaluation batch does not divide over it.
    """
    rows = [size // config.train.accumulate_steps for size in config.batch_sizes()]
    mesh = _mesh(config, [*rows, config.eval.batch_size], devices)
    for size in config.batch_sizes():
        micro_batches(config.train, size, mesh)
    _check(config.eval.batch_size, mesh)
    return mesh


def for_evaluation(config: Config, devices: Devices = None) -> Mesh | AbstractMesh:
    """Returns the mesh for an evaluation without training.

    Raises:
      UserError: if the evaluation batch does not divide over it.
    """
    mesh = _mesh(config, [config.eval.batch_size], devices)
    _check(config.eval.batch_size, mesh)
    return mesh


def heads(config: ModelConfig) -> list[int]:
    """The numbers of heads that must divide over the mesh axis "tensor"."""
    own = [config.memory.num_heads] if config.memory.num_layers else []
    return [config.num_heads, config.num_kv_heads, *own]


def micro_batches(config: TrainConfig, rows: int, mesh: Mesh) -> int:
    """Returns the number of micro-batches for a batch of `rows` rows.

    Raises:
      UserError: if the rows do not divide over the micro-batches and devices.
    """
    shards, count = partition.rows_per_step(mesh), config.accumulate_steps
    if config.rows_per_device:
        count = max(1, rows // (shards * config.rows_per_device))
    if rows % (shards * count):
        parts = f" in {count} micro-batches" if count > 1 else ""
        raise UserError(f"a batch of {rows} rows{parts} does not divide over the {shards} devices "
                        f"of the mesh axes data x fsdp; take a multiple of {shards * count}")
    return count


def _mesh(config: Config, rows: Sequence[int], devices: Devices) -> Mesh | AbstractMesh:
    devices = jax.devices() if devices is None else devices
    count = devices if isinstance(devices, int) else len(devices)
    shape = partition.mesh_sizes(dataclasses.asdict(config.mesh), count, rows,
                                 heads(config.model))
    return partition.make_mesh(shape, devices)


def _check(rows: int, mesh: Mesh) -> None:
    shards = partition.rows_per_step(mesh)
    if rows % shards:
        raise UserError(f"eval.batch_size is {rows} rows; they must divide over the {shards} "
                        f"devices of the mesh axes data x fsdp: take a multiple of {shards}")
