"""Functions that devices run apart, each on its part of the arrays."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from lm2_jax import partition


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
    mesh, managed = jax.sharding.get_abstract_mesh(), partition.managed_axes()
    if not managed or mesh.size == 1:
        return function

    def is_names(x) -> bool:
        return isinstance(x, tuple) and all(name is None or name in partition.RULES for name in x)

    def ways(name) -> int:
        axes = partition.managed_spec((name,))[0] or ()
        return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))

    def run(*arrays):
        whole = set()

        def check(axes, x):
            whole.update(name for name, size in zip(axes, x.shape, strict=True)
                         if size % ways(name))

        def specs(tree):
            return jax.tree.map(lambda axes: partition.managed_spec([
                None if name in whole else name for name in axes]), tree, is_leaf=is_names)

        jax.tree.map(check, tuple(names), arrays, is_leaf=is_names)
        return jax.shard_map(function, mesh=mesh, axis_names=set(managed), check_vma=False,
                             in_specs=specs(tuple(names)), out_specs=specs(out_names))(*arrays)

    return run


def summed_once(function: Callable[[Any, Any], tuple[Any, Any]]
                ) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns the function computed for the rows of each index of the axis "data" apart, whose sums
    are added up at the end.

    The compiler would add the gradients of these rows wherever they are computed, so once for each
    segment; between slices that takes the network each time. On a mesh that splits the vocabulary,
    or with stages, the function itself is returned.

    Args:
      function: (whole, rows) -> (sums, of_rows), of trees of arrays: `whole` is the same for all
        rows; the first axis of `rows` and `of_rows` is that of the rows; `sums` are over the rows.
    """
    mesh, axis = jax.sharding.get_abstract_mesh(), partition.COPIED
    if axis not in partition.managed_axes() or mesh.shape[axis] == 1:
        return function
    # XLA's partitioner fails where a gather's operand is split too, as embeddings are.
    if partition.num_stages() > 1 or partition.ways(mesh, "vocab") > 1:
        return function

    def of_index(whole, rows):
        sums, of_rows = function(whole, rows)
        return jax.lax.psum(sums, axis), of_rows

    everywhere, split = PartitionSpec(), PartitionSpec(axis)
    return jax.shard_map(of_index, mesh=mesh, axis_names={axis}, check_vma=False,
                         in_specs=(everywhere, split), out_specs=(everywhere, split))
