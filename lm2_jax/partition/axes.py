"""The axes of a mesh, the table of logical axes, and constraints by logical axes."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

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
