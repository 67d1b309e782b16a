"""What the groups of a wavefront hand on: from each to the next one, and out of the last.

G groups have the first axis of every array, which a mesh with stages splits.
"""

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.types import Array


def shifted(read_G: Array, entering: Array) -> Array:
    """Moves what each group has read to the next one, and what enters to the first.

    Over stages this is one exchange with the neighbour, and one for the gradient: of a rotation the
    partitioner makes a collective permute.
    """
    first_G = jnp.arange(read_G.shape[0]).reshape(-1, *[1] * entering.ndim) == 0
    rotate = _rotated if jnp.issubdtype(read_G.dtype, jnp.floating) else _roll
    return jnp.where(first_G, entering[None], rotate(read_G, 1))


def last(a_G: Array) -> Array:
    """Returns a_G[-1]; over stages as a sum of what each stage has of it.

    Of a slice the partitioner makes a collective permute to the first stage and such a sum.
    """
    if partition.num_stages() == 1:
        return a_G[-1]
    last_G = jnp.arange(a_G.shape[0]).reshape(-1, *[1] * (a_G.ndim - 1)) == a_G.shape[0] - 1
    own_G = jnp.where(last_G, a_G, jnp.zeros((), a_G.dtype))
    return jnp.any(own_G, axis=0) if a_G.dtype == bool else jnp.sum(own_G, axis=0)


def _roll(a_G: Array, by: int) -> Array:
    return jnp.roll(a_G, by, axis=0)


def _rolled_back(by: int, _: None, grad_G: Array) -> tuple[Array]:
    return (_roll(grad_G, -by),)


# The gradient that JAX derives moves two slices apart, by a collective permute each.
_rotated = jax.custom_vjp(_roll, nondiff_argnums=(1,))
_rotated.defvjp(lambda a_G, by: (_roll(a_G, by), None), _rolled_back)
