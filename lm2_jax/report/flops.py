"""FLOPs of the matrix products of a program, counted in its jaxpr."""

import math

import jax


def matrix_flops(jaxpr) -> int:
    """FLOPs on all devices together.

    A product of [m, k] and [k, n] has 2 m k n. The body of a scan counts once per iteration, the
    most expensive branch of a cond counts, and recomputation in the backward pass counts again.

    Args:
      jaxpr: a closed jaxpr, such as `jax.jit(f).trace(...).jaxpr`.
    """
    return sum(_of(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        x, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * math.prod(out.shape) * math.prod(x.shape[axis] for axis in contracted)
    inner = [matrix_flops(part) for value in params.values()
             for part in (value if isinstance(value, tuple | list) else (value,))
             if hasattr(getattr(part, "jaxpr", part), "eqns")]
    if name == "cond":
        return max(inner)
    return (params["length"] if name == "scan" else 1) * sum(inner)


def of_traced(traced: jax.stages.Traced) -> int:
    """`matrix_flops` of a traced function."""
    return matrix_flops(traced.jaxpr)
