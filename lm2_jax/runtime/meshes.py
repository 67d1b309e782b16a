"""The mesh that a config asks for."""

import dataclasses
from collections.abc import Sequence
from typing import overload

import jax
from jax.sharding import AbstractMesh, Mesh

from lm2_jax import partition
from lm2_jax.config import Config, ModelConfig, TrainConfig
from lm2_jax.errors import UserError

Devices = Sequence[jax.Device] | int | None
"""The given devices; a number of abstract devices; or None for all devices."""


@overload
def for_training(config: Config, devices: Sequence[jax.Device] | None = None,
                 evaluates: bool = True) -> Mesh: ...


@overload
def for_training(config: Config, devices: int, evaluates: bool = True) -> AbstractMesh: ...


def for_training(config: Config, devices: Devices = None, evaluates: bool = True
                 ) -> Mesh | AbstractMesh:
    """Returns the mesh of a run, all of whose batches divide over its devices.

    Args:
      evaluates: whether the batches of the evaluation must divide over them too.

    Raises:
      UserError: if a batch, a micro-batch or a batch of the evaluation does not divide.
    """
    rows = [size // config.train.accumulate_steps for size in config.batch_sizes()]
    mesh = _mesh(config, [*rows, *[config.eval.batch_size] * evaluates], devices)
    for size in config.batch_sizes():
        micro_batches(config.train, size, mesh)
    if evaluates:
        _check(config.eval.batch_size, mesh)
    return mesh


@overload
def for_evaluation(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh: ...


@overload
def for_evaluation(config: Config, devices: int) -> AbstractMesh: ...


def for_evaluation(config: Config, devices: Devices = None) -> Mesh | AbstractMesh:
    """The same for an evaluation alone."""
    mesh = _mesh(config, [config.eval.batch_size], devices)
    _check(config.eval.batch_size, mesh)
    return mesh


def heads(config: ModelConfig) -> list[int]:
    """The numbers of heads in the model."""
    own = [config.memory.num_heads] if config.memory.num_layers else []
    return [config.num_heads, config.num_kv_heads, *own]


def micro_batches(config: TrainConfig, rows: int, mesh: partition.AnyMesh) -> int:
    """Returns the number of micro-batches of a batch; each has rows for every device.

    Raises:
      UserError: if the rows do not divide over micro-batches and devices.
    """
    ways, count = partition.rows_per_step(mesh), config.accumulate_steps
    if config.rows_per_device:
        count = max(1, rows // (ways * config.rows_per_device))
    if rows % (ways * count):
        kept = f" in {count} micro-batches" if count > 1 else ""
        raise UserError(f"a batch of {rows} rows{kept} does not divide over the {ways} devices of "
                         f"the mesh axes data x fsdp; take a multiple of {ways * count}")
    return count


def _mesh(config: Config, rows: Sequence[int], devices: Devices) -> Mesh | AbstractMesh:
    devices = jax.devices() if devices is None else devices
    count = devices if isinstance(devices, int) else len(devices)
    shape = dataclasses.asdict(config.mesh)
    shape |= partition.across_slices(shape, devices)
    shape = partition.mesh_sizes(shape, count, rows, heads(config.model))
    return partition.make_mesh(shape, devices)


def _check(rows: int, mesh: partition.AnyMesh) -> None:
    ways = partition.rows_per_step(mesh)
    if rows % ways:
        raise UserError(f"eval.batch_size is {rows} rows; they must divide over the {ways} "
                         f"devices of the mesh axes data x fsdp: take a multiple of {ways}")
