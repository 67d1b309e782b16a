"""Matrix products."""

import functools

import jax
import jax.numpy as jnp

from lm2_jax.model.kernels.platform import on_gpu

GPU_ROWS = 8


def product(x_2d: jax.Array, kernel_2d: jax.Array, out_dtype: str) -> jax.Array:
    """Returns x kernel in `out_dtype`, which is float32 or the dtype of both operands.

    On GPUs a single row, as in decoding, gets rows of zeros beside it. XLA would compute the
    product with a vector as an elementwise product, as large as the kernel, which it writes to
    memory, and a sum.
    """
    if len(x_2d) == 1 and on_gpu():
        padded_2d = jnp.pad(x_2d, ((0, GPU_ROWS - 1), (0, 0)))
        return product(padded_2d, kernel_2d, out_dtype)[:1]
    if out_dtype == x_2d.dtype:
        return x_2d @ kernel_2d
    return einsum_float32("if,fo->io", x_2d, kernel_2d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum_float32(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns einsum(equation, a, b) in float32; the gradients have the dtype of the operands.

    The backward pass casts the incoming gradient to the dtype of `a`, so that its products are as
    fast as the forward one. For float32 operands this is `jnp.einsum`.
    """
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _einsum_backward(equation, operands, gradient):
    (a, b), gradient = operands, gradient.astype(operands[0].dtype)
    return (*jax.linear_transpose(lambda a: jnp.einsum(equation, a, b), a)(gradient),
            *jax.linear_transpose(lambda b: jnp.einsum(equation, a, b), b)(gradient))


einsum_float32.defvjp(lambda equation, a, b: (einsum_float32(equation, a, b), (a, b)),
                      _einsum_backward)
