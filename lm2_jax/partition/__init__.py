"""Meshes and how arrays are split over them: the only package that names mesh axes."""

from lm2_jax.partition.axes import (
    COPIED,
    MESH_AXES,
    RULES,
    STAGE,
    AnyMesh,
    constrain,
    managed_axes,
    managed_spec,
    named,
    num_stages,
    row_ways,
    rows_per_step,
    shardings,
    spec,
    stage_axis,
    use,
    ways,
)
from lm2_jax.partition.meshes import (
    across_slices,
    make_mesh,
    mesh_for_storage,
    mesh_sizes,
    slices,
)

__all__ = ["COPIED", "MESH_AXES", "RULES", "STAGE", "AnyMesh", "across_slices", "constrain",
           "make_mesh", "managed_axes", "managed_spec", "mesh_for_storage", "mesh_sizes", "named",
           "num_stages", "row_ways", "rows_per_step", "shardings", "slices", "spec", "stage_axis",
           "use", "ways"]
