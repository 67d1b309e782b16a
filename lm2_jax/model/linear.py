"""Linear maps written as einsums, and the norm: the leaves of every block."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.partition import constrain


class Linear(nn.Module):
    """y = einsum(equation, x, kernel) + bias, computed as one matrix product.

    Attributes:
      equation: such as "BTD,DNH->BTNH": the second operand is the kernel, whose first axes
        are summed with the last of x.
      shape: the kernel's shape.
      axes: logical names of the kernel's axes.
      bias_axes: logical names of the bias, over the last axes of y; None = no bias.
      bias: initial value of the bias.
      scale: initial standard deviation of the kernel, in units of 1 / sqrt(fan in).
      init: initializer of the kernel, (key, shape, dtype) -> array; None = normal with `scale`.
      dtype: dtype of the operands; parameters are float32.
      out_dtype: dtype of the product, of the bias and of y; "" = dtype.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    bias_axes: tuple[str, ...] | None = None
    bias: float = 0.0
    scale: float = 1.0
    init: Callable | None = None
    dtype: str = "float32"
    out_dtype: str = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        operands, result = self.equation.split("->")
        summed = sum(letter not in result for letter in operands.split(",")[1])
        fan_in, out = math.prod(self.shape[:summed]), self.shape[summed:]
        init = self.init or nn.initializers.normal(self.scale / math.sqrt(fan_in))
        kernel = self.param("kernel", partitioned(init, self.axes), self.shape, jnp.float32)
        kernel = gathered(kernel.astype(self.dtype), self.axes)
        # As an einsum of all axes, the kernel's gradient takes 1.5 times as long on a CPU.
        x_2d, kernel_2d = x.astype(self.dtype).reshape(-1, fan_in), kernel.reshape(fan_in, -1)
        out_dtype = self.out_dtype or self.dtype
        y = x_2d @ kernel_2d if out_dtype == self.dtype else (
            einsum_float32("if,fo->io", x_2d, kernel_2d))
        y = y.reshape(*x.shape[:x.ndim - summed], *out)
        if self.bias_axes is None:
            return y
        init = nn.initializers.constant(self.bias)
        bias = self.param("bias", partitioned(init, self.bias_axes),
                          y.shape[-len(self.bias_axes):], jnp.float32)
        return y + jnp.broadcast_to(bias.astype(out_dtype), y.shape)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * scale, over the last axis; computed in float32."""

    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", partitioned(nn.initializers.ones, ("norm",)),
                           (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (x * jnp.broadcast_to(scale, x.shape)).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum_float32(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum(equation, a, b) with a float32 result; the gradients have the operands' dtype.

    The incoming gradient is cast to that dtype, so that the backward products run as fast as the
    forward one. For float32 operands this is einsum.
    """
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _einsum_backward(equation, operands, gradient):
    (a, b), gradient = operands, gradient.astype(operands[0].dtype)
    return (*jax.linear_transpose(lambda a: jnp.einsum(equation, a, b), a)(gradient),
            *jax.linear_transpose(lambda b: jnp.einsum(equation, a, b), b)(gradient))


einsum_float32.defvjp(lambda equation, a, b: (einsum_float32(equation, a, b), (a, b)),
                      _einsum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(kernel: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The kernel as it is computed with: whole along the embedding.

    Parameters lie in parts over fsdp only at rest, since the rows of the batch lie over it too.
    Left to itself, the compiler of jax 0.10.2 makes wrong products on a mesh of three axes. The
    gradient is wanted in those parts again: summed over the rows, it need not be whole anywhere.
    """
    return constrain(kernel, *(None if axis == "embed" else axis for axis in axes))


gathered.defvjp(lambda kernel, axes: (gathered(kernel, axes), None),
                lambda axes, _, gradient: (constrain(gradient, *axes),))


def partitioned(init: Callable, axes: tuple[str, ...]) -> Callable:
    """The initializer, its result boxed with the logical names of its axes."""
    return nn.with_logical_partitioning(init, axes)
