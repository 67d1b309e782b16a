"""Meshes, the table of logical axes, and constraints: the only file that names mesh axes."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import overload

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from lm2_jax.errors import UserError

AnyMesh = Mesh | AbstractMesh

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # over which rows are split

RULES = {
    # Parameters: over fsdp along the embedding, over tensor along what heads and mlp split.
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    "norm": None,
    # Activations and state: rows over data and fsdp, the rest as the parameters leave it.
    "act_batch": BATCH_AXES,
    "act_segment": None,
    "act_len": None,
    "act_embed": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_head_dim": None,
    "act_mlp": "tensor",
    "act_vocab": "tensor",
    "act_memory": "tensor",  # channels of a state between segments, as heads leave them
    "memory_slots": None,
    "memory_key": None,
}


def spec(names: Sequence[str | None]) -> PartitionSpec:
    """The mesh axes of an array whose axes have these logical names."""
    for name in names:
        if name is not None and name not in RULES:
            known = ", ".join(sorted(RULES))
            raise ValueError(f"unknown logical axis {name!r}; known: {known}")
    return PartitionSpec(*(None if name is None else RULES[name] for name in names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains the sharding of `x` by the logical names of its axes.

    Returns `x` as it is without a mesh, on a mesh that lacks one of MESH_AXES, and where the
    compiler does not manage all of them: inside shard_map and pmap (manual axes), on a mesh with
    explicit axes.
    """
    if len(names) != x.ndim:
        raise ValueError(f"constrain: {len(names)} names {names} for an array of shape {x.shape}")
    resolved, mesh = spec(names), jax.sharding.get_abstract_mesh()
    if mesh.empty:
        try:
            return jax.lax.with_sharding_constraint(x, resolved)
        except (RuntimeError, ValueError):  # no mesh, or one of other axes by `with mesh:`
            return x
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(types.get(axis) != AxisType.Auto for axis in MESH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, resolved)


def on_shards(function: Callable, names, out_names) -> Callable:
    """Returns the function run by every device on its part of the arrays.

    A custom kernel needs it, since the compiler cannot split one. Where the compiler does not
    split arrays (the cases in which `constrain` does nothing, and a single device) the function
    itself is returned.

    Args:
      function: treats each index of the axes that are split on its own.
      names: logical axis names of each argument, a tuple; None for an argument that is None. An
        axis is left whole if a size along it is not a multiple of the mesh's.
      out_names: those of the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if mesh.empty or mesh.size == 1 or any(types.get(axis) != AxisType.Auto for axis in MESH_AXES):
        return function

    def is_names(x) -> bool:
        return isinstance(x, tuple) and all(name is None or name in RULES for name in x)

    def run(*arrays):
        whole = set()

        def check(axes, x):
            whole.update(name for name, size in zip(axes, x.shape, strict=True)
                         if size % ways(mesh, name))

        def specs(tree):
            return jax.tree.map(lambda axes: spec([None if name in whole else name
                                                   for name in axes]), tree, is_leaf=is_names)

        jax.tree.map(check, tuple(names), arrays, is_leaf=is_names)
        return jax.shard_map(function, mesh=mesh, in_specs=specs(tuple(names)),
                             out_specs=specs(out_names), check_vma=False)(*arrays)

    return run


@overload
def make_mesh(shape: dict[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh: ...


@overload
def make_mesh(shape: dict[str, int], devices: int) -> AbstractMesh: ...


def make_mesh(shape: dict[str, int], devices: Sequence[jax.Device] | int | None = None
              ) -> Mesh | AbstractMesh:
    """A mesh with the axes data, fsdp, tensor.

    Args:
      shape: size of each axis; one may be -1, which takes the devices that are left.
      devices: all devices by default; a number n makes an abstract mesh of n devices.
    """
    devices = jax.devices() if devices is None else devices
    count = devices if isinstance(devices, int) else len(devices)
    types = (AxisType.Auto,) * len(MESH_AXES)
    sizes = [shape.get(axis, 1) for axis in MESH_AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if -1 in sizes or math.prod(sizes) != count:
        wanted = ", ".join(f"{axis}={shape.get(axis, 1)}" for axis in MESH_AXES)
        raise UserError(f"mesh ({wanted}) does not fit {count} devices: "
                         "the sizes must multiply to it (-1: as many as are left)")
    if isinstance(devices, int):
        return AbstractMesh(tuple(sizes), MESH_AXES, axis_types=types)
    # A slice of 8 x 8 chips is 32 x 2 only where an axis of the torus may be split.
    placed = mesh_utils.create_device_mesh(sizes, list(devices), allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=types)


def mesh_for_storage(width: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, over as many of which as possible parameters of an embedding of this
    width are split."""
    count = len(jax.devices() if devices is None else devices)
    return make_mesh({"fsdp": math.gcd(count, width), "data": -1}, devices)


def mesh_sizes(shape: dict[str, int], num_devices: int, rows: Sequence[int],
               heads: Sequence[int]) -> dict[str, int]:
    """The size of each axis, where `shape` leaves more than one to be inferred (-1).

    Of the meshes that use all devices, and whose data x fsdp divides every number of rows and
    tensor every number of heads, the one with the most ways for rows, since splitting heads costs
    two exchanges of activations a block; and of those the one with the least data, since
    parameters are split over fsdp only.

    Args:
      shape: sizes as configured; with at most one -1 it is returned as it is, for `make_mesh`.
      rows: of every batch, or micro-batch, that the mesh must take.
      heads: of everything that is split by heads.

    Raises:
      ValueError: if there is no such mesh.
    """
    wanted = [shape.get(axis, 1) for axis in MESH_AXES]
    if wanted.count(-1) < 2:
        return shape
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    found = [sizes for sizes in itertools.product(divisors, repeat=3)
             if math.prod(sizes) == num_devices
             and all(w in (-1, size) for w, size in zip(wanted, sizes, strict=True))
             and math.gcd(*rows) % (sizes[0] * sizes[1]) == 0 and math.gcd(*heads) % sizes[2] == 0]
    if not found:
        fixed = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, wanted, strict=True))
        raise UserError(
            f"no mesh ({fixed}) for {num_devices} devices: data x fsdp must divide the rows of "
            f"every batch ({', '.join(map(str, sorted(set(rows))))}), tensor the heads "
            f"({', '.join(map(str, sorted(set(heads))))}); take other numbers of rows or devices")
    best = min(found, key=lambda sizes: (sizes[2], sizes[0]))
    return dict(zip(MESH_AXES, best, strict=True))


def use(mesh: AnyMesh):
    """A context in which the mesh is the one that `constrain` takes."""
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh)


def shardings(abstract_boxed, mesh: AnyMesh):
    """Shardings of a tree of logically partitioned (or plain, then replicated) arrays."""
    def one(leaf):
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        if names and len(names) != leaf.value.ndim:
            raise ValueError(f"{len(names)} names {names} for a parameter of shape "
                             f"{leaf.value.shape}")
        return NamedSharding(mesh, spec(names))

    return jax.tree.map(one, abstract_boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def named(mesh: AnyMesh, *names: str | None) -> NamedSharding:
    """The sharding of one array by its axes' logical names."""
    return NamedSharding(mesh, spec(names))


def ways(mesh: AnyMesh, name: str | None) -> int:
    """How many ways an axis of this logical name is split."""
    axes = spec((name,))[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def rows_per_step(mesh: AnyMesh) -> int:
    """How many ways the batch is split: a global batch must be a multiple of it."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
