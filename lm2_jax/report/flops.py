"""FLOPs of a program: those of its matrix products, counted in its jaxpr."""

import math

import jax


def matrix_flops(jaxpr) -> int:
    """Of all devices together: a product of [m, k] and [k, n] is 2 m k n, a loop of known length
    its body so many times, and what is computed again for the backward pass counts again.

    Args:
      jaxpr: closed, as `jax.jit(f).trace(...).jaxpr` is.
    """
    return sum(_of(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        x, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * math.prod(out.shape) * math.prod(x.shape[axis] for axis in summed)
    inner = [matrix_flops(part) for value in params.values()
             for part in (value if isinstance(value, tuple | list) else (value,))
             if hasattr(getattr(part, "jaxpr", part), "eqns")]
    if name == "cond":
        return max(inner)
    return (params["length"] if name == "scan" else 1) * sum(inner)


def of_traced(traced: jax.stages.Traced) -> int:
    """`matrix_flops` of a traced function."""
    return matrix_flops(traced.jaxpr)
