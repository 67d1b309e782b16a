"""Meshes, the table of logical axes, and constraints: the only file that names mesh axes."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import overload

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from lm2_jax.errors import UserError

AnyMesh = Mesh | AbstractMesh

MESH_AXES = ("data", "fsdp", "tensor")
STAGE = "stage"  # before the others in a mesh with stages; there is no such axis without them
BATCH_AXES = ("data", "fsdp")  # over which rows are split
COPIED = "data"  # of these the one over which parameters are not split
ACROSS_SLICES = {"data": "dcn_data", "fsdp": "dcn_fsdp"}  # keys of the ways of an axis over slices

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


# On a mesh with stages: each stage has its layers, and what is left is split over stages too.
STAGE_RULES = {"layers": STAGE, "vocab": (STAGE, "tensor"), "act_vocab": (STAGE, "tensor")}


def spec(names: Sequence[str | None], stages: bool = False) -> PartitionSpec:
    """The mesh axes of an array whose axes have these logical names.

    Args:
      stages: whether the mesh has an axis of stages.
    """
    rules = RULES | STAGE_RULES if stages else RULES
    for name in names:
        if name is not None and name not in RULES:
            known = ", ".join(sorted(RULES))
            raise ValueError(f"unknown logical axis {name!r}; known: {known}")
    return PartitionSpec(*(None if name is None else rules[name] for name in names))


def stage_axis() -> str | None:
    """The axis of the stages of the current mesh, where the compiler manages it; None without."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return STAGE if all(types.get(axis) == AxisType.Auto for axis in (STAGE, *MESH_AXES)) else None


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains the sharding of `x` by the logical names of its axes.

    Returns `x` as it is without a mesh, on a mesh that lacks one of MESH_AXES, and where the
    compiler does not manage them: inside shard_map and pmap (manual axes), on a mesh with explicit
    axes. Inside `shards.summed_once` the constraint is that of the axes that it does manage.
    """
    if len(names) != x.ndim:
        raise ValueError(f"constrain: {len(names)} names {names} for an array of shape {x.shape}")
    resolved = managed_spec(names, stage_axis() is not None)
    if jax.sharding.get_abstract_mesh().empty:
        try:
            return jax.lax.with_sharding_constraint(x, spec(names))
        except (RuntimeError, ValueError):  # no mesh, or one of other axes by `with mesh:`
            return x
    return jax.lax.with_sharding_constraint(x, resolved) if managed_axes() else x


def managed_axes() -> tuple[str, ...]:
    """The axes of the current mesh by which the compiler splits arrays: all of them; all but COPIED
    inside `shards.summed_once`; () where `constrain` does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    apart = [COPIED] if types.get(COPIED) == AxisType.Manual else []
    if any(types.get(axis) != AxisType.Auto for axis in MESH_AXES if axis not in apart):
        return ()
    return tuple(axis for axis in types if axis not in apart)


def managed_spec(names: Sequence[str | None], stages: bool = False) -> PartitionSpec:
    """`spec` without the axes that the compiler does not manage."""
    managed = managed_axes()

    def kept(axes):
        if isinstance(axes, tuple):
            return tuple(axis for axis in axes if axis in managed) or None
        return axes if axes in managed else None

    return PartitionSpec(*map(kept, spec(names, stages)))


def num_stages() -> int:
    """How many stages the current mesh has; 1 without such an axis."""
    axis = stage_axis()
    return jax.sharding.get_abstract_mesh().shape[axis] if axis else 1


def row_ways() -> int:
    """How many ways the compiler splits rows over the current mesh; 1 without a mesh."""
    shape, managed = jax.sharding.get_abstract_mesh().shape, managed_axes()
    return math.prod(shape[axis] for axis in BATCH_AXES if axis in managed)


@overload
def make_mesh(shape: dict[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh: ...


@overload
def make_mesh(shape: dict[str, int], devices: int) -> AbstractMesh: ...


def make_mesh(shape: dict[str, int], devices: Sequence[jax.Device] | int | None = None
              ) -> Mesh | AbstractMesh:
    """A mesh with the axes data, fsdp, tensor; before them stage, if it has more than one.

    Args:
      shape: size of each axis inside a slice; one may be -1, which takes the devices that are
        left. "dcn_data" and "dcn_fsdp" are the ways in which data and fsdp are split over slices
        too, as `across_slices` takes them; the axes of the mesh have the products.
      devices: all devices by default; a number n makes an abstract mesh of n devices.
    """
    devices = jax.devices() if devices is None else devices
    across = across_slices(shape, devices)
    slices = math.prod(across.values())
    count = (devices if isinstance(devices, int) else len(devices)) // slices
    axes = (STAGE, *MESH_AXES) if shape.get(STAGE, 1) > 1 else MESH_AXES
    types = (AxisType.Auto,) * len(axes)
    sizes = [shape.get(axis, 1) for axis in axes]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if -1 in sizes or math.prod(sizes) != count:
        wanted = ", ".join(f"{axis}={shape.get(axis, 1)}" for axis in axes)
        each = " of a slice" if slices > 1 else ""
        raise UserError(f"mesh ({wanted}) does not fit {count} devices{each}: "
                         "the sizes must multiply to it (-1: as many as are left)")
    ways = [across.get(ACROSS_SLICES.get(axis, ""), 1) for axis in axes]
    if isinstance(devices, int):
        return AbstractMesh(tuple(np.multiply(sizes, ways).tolist()), axes, axis_types=types)
    # A slice of 8 x 8 chips is 32 x 2 only where an axis of the torus may be split.
    if slices == 1:
        placed = mesh_utils.create_device_mesh(sizes, list(devices), allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            sizes, ways, list(devices), allow_split_physical_axes=True,
            process_is_granule=_slice_indices(devices) is None)
    return Mesh(placed, axes, axis_types=types)


def across_slices(shape: dict[str, int], devices: Sequence[jax.Device] | int) -> dict[str, int]:
    """In how many slices the devices are: those that split the rows, and the parameters too.

    Args:
      shape: as configured; dcn_data is -1 if it is missing, dcn_fsdp 1. A dcn_data of -1 takes the
        slices of TPU chips that there are. Other devices, which no torus joins, are in one slice
        unless more are asked for; then in those that they know of, or one for each process.

    Raises:
      UserError: if the devices are not in so many slices of the same size.
    """
    data, fsdp = shape.get("dcn_data", -1), shape.get("dcn_fsdp", 1)
    if isinstance(devices, int):
        return {"dcn_data": max(data, 1), "dcn_fsdp": fsdp}
    if data * fsdp in (-1, 1) and not hasattr(devices[0], "coords"):
        sizes = Counter({0: len(devices)})
    else:
        sizes = Counter(_slice_indices(devices) or [device.process_index for device in devices])
    wanted = f"mesh.dcn_data={data} x mesh.dcn_fsdp={fsdp}"
    data = max(1, len(sizes) // fsdp) if data == -1 else data
    if data * fsdp != len(sizes):
        raise UserError(f"{wanted} does not fit {len(sizes)} slice{'s' * (len(sizes) > 1)}: they "
                        "must multiply to it (dcn_data=-1: as many as there are)")
    if len(set(sizes.values())) > 1:
        raise UserError(f"the slices have {', '.join(map(str, sizes.values()))} devices; all must "
                        "have the same number")
    return {"dcn_data": data, "dcn_fsdp": fsdp}


def _slice_indices(devices: Sequence[jax.Device]) -> list[int] | None:
    """The slice of each device; None if they are no chips of a torus and do not know several:
    then each process is taken for one."""
    known = [getattr(device, "slice_index", None) or 0 for device in devices]
    return known if hasattr(devices[0], "coords") or len(set(known)) > 1 else None


def slices(mesh: AnyMesh) -> list[int]:
    """The slice of each device in the order of the mesh; [] if all are in one, or abstract."""
    if isinstance(mesh, AbstractMesh):
        return []
    found = [getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat]
    return found if len(set(found)) > 1 else []


def mesh_for_storage(width: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, over as many of which as possible parameters of an embedding of this
    width are split."""
    devices = jax.devices() if devices is None else devices
    count = len(devices) // math.prod(across_slices({}, devices).values())
    return make_mesh({"fsdp": math.gcd(count, width), "data": -1}, devices)


def mesh_sizes(shape: dict[str, int], num_devices: int, rows: Sequence[int],
               heads: Sequence[int]) -> dict[str, int]:
    """The size of each axis, where `shape` leaves more than one to be inferred (-1); that of stage
    is given.

    Of the meshes that use all devices, and whose data x fsdp divides every number of rows and
    tensor every number of heads, the one with the most ways for rows, since splitting heads costs
    two exchanges of activations a block; and of those the one with the least data, since
    parameters are split over fsdp only.

    Args:
      shape: sizes as configured, "dcn_data" and "dcn_fsdp" of `across_slices` among them; with at
        most one -1 in the others it is returned as it is, for `make_mesh`.
      rows: of every batch, or micro-batch, that the mesh must take.
      heads: of everything that is split by heads.

    Raises:
      ValueError: if there is no such mesh.
    """
    wanted, stages = [shape.get(axis, 1) for axis in MESH_AXES], shape.get(STAGE, 1)
    if wanted.count(-1) < 2:
        return shape
    slices = {key: shape[key] for key in ACROSS_SLICES.values() if key in shape}
    across = math.prod(slices.values())
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    found = [sizes for sizes in itertools.product(divisors, repeat=3)
             if math.prod(sizes) * stages * across == num_devices
             and all(w in (-1, size) for w, size in zip(wanted, sizes, strict=True))
             and math.gcd(*rows) % (sizes[0] * sizes[1] * across) == 0
             and math.gcd(*heads) % sizes[2] == 0]
    if not found:
        fixed = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, wanted, strict=True))
        raise UserError(
            f"no mesh ({fixed}) for {num_devices} devices: data x fsdp must divide the rows of "
            f"every batch ({', '.join(map(str, sorted(set(rows))))}), tensor the heads "
            f"({', '.join(map(str, sorted(set(heads))))}); take other numbers of rows or devices")
    best = min(found, key=lambda sizes: (sizes[2], sizes[0]))
    sizes = dict(zip(MESH_AXES, best, strict=True)) | slices
    return {STAGE: stages, **sizes} if stages > 1 else sizes


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
        return named(mesh, *names)

    return jax.tree.map(one, abstract_boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def named(mesh: AnyMesh, *names: str | None) -> NamedSharding:
    """The sharding of one array by its axes' logical names."""
    return NamedSharding(mesh, spec(names, STAGE in mesh.axis_names))


def ways(mesh: AnyMesh, name: str | None) -> int:
    """How many ways an axis of this logical name is split."""
    axes = spec((name,))[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def rows_per_step(mesh: AnyMesh) -> int:
    """How many ways the batch is split: a global batch must be a multiple of it."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
