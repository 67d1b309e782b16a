"""FLOPs of the matrix products of a program, counted in its jaxpr."""

import math

import jax

KERNEL = "pallas_call"


def matrix_flops(jaxpr, kernels_only: bool = False) -> int:
    """FLOPs on all devices together.

    A product of [m, k] and [k, n] has 2 m k n. The body of a scan counts once per iteration, the
    most expensive branch of a cond counts, and recomputation in the backward pass counts again. A
    custom kernel has the FLOPs of its own estimate, or else those of its body at each place of its
    grid, blocks that it skips included.

    Args:
      jaxpr: a closed jaxpr, such as `jax.jit(f).trace(...).jaxpr`.
      kernels_only: count the custom kernels only.
    """
    return sum(_of(equation, kernels_only) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(equation, kernels_only: bool) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        if kernels_only:
            return 0
        (contracted, _), _ = params["dimension_numbers"]
        x, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * math.prod(out.shape) * math.prod(x.shape[axis] for axis in contracted)
    if name == KERNEL and params.get("cost_estimate") is not None:
        return params["cost_estimate"].flops
    inner = [matrix_flops(part, kernels_only and name != KERNEL) for value in params.values()
             for part in (value if isinstance(value, tuple | list) else (value,))
             if hasattr(getattr(part, "jaxpr", part), "eqns")]
    if name == "cond":
        return max(inner)
    times = params["length"] if name == "scan" else 1
    if name == KERNEL:
        times = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    elif name == "shard_map":  # its body is that of one device
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(inner)


def of_traced(traced: jax.stages.Traced) -> int:
    """`matrix_flops` of a traced function."""
    return matrix_flops(traced.jaxpr)


def of_kernels(traced: jax.stages.Traced) -> int:
    """FLOPs of the custom kernels of a traced function, on all devices together."""
    return matrix_flops(traced.jaxpr, kernels_only=True)
