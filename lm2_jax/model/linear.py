"""Linear layers written as einsums, RMSNorm, and the sharding of parameters."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.model import kernels
from lm2_jax.partition import constrain


class Linear(nn.Module):
    """y = einsum(equation, x, kernel) + bias, computed as one matrix product.

    Attributes:
      equation: as "BTD,DNH->BTNH". The second operand is the kernel; the sum is over its first
        axes, which are the last axes of x.
      shape: shape of the kernel.
      axes: logical axis names of the kernel.
      bias_axes: logical axis names of the bias, which is added along the last axes of y; None
        for no bias.
      bias_init: initial value of the bias.
      scale: initial standard deviation of the kernel, in units of 1 / sqrt(fan in).
      kernel_init: initializer of the kernel, (key, shape, dtype) -> array; None for a normal
        distribution with `scale`.
      dtype: compute dtype of both operands; the parameters are float32.
      out_dtype: dtype of the product, the bias and y; "" for `dtype`.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    bias_axes: tuple[str, ...] | None = None
    bias_init: float = 0.0
    scale: float = 1.0
    kernel_init: Callable | None = None
    dtype: str = "float32"
    out_dtype: str = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        operands, result = self.equation.split("->")
        summed = sum(letter not in result for letter in operands.split(",")[1])
        fan_in, out = math.prod(self.shape[:summed]), self.shape[summed:]
        init = self.kernel_init or nn.initializers.normal(self.scale / math.sqrt(fan_in))
        kernel = self.param("kernel", partitioned(init, self.axes), self.shape, jnp.float32)
        kernel = unshard(kernel.astype(self.dtype), self.axes)
        # An einsum over all axes would make the kernel's gradient 1.5 times as slow on a CPU.
        x_2d, kernel_2d = x.astype(self.dtype).reshape(-1, fan_in), kernel.reshape(fan_in, -1)
        out_dtype = self.out_dtype or self.dtype
        y = kernels.product(x_2d, kernel_2d, out_dtype)
        y = y.reshape(*x.shape[:x.ndim - summed], *out)
        if self.bias_axes is None:
            return y
        bias_init = nn.initializers.constant(self.bias_init)
        bias = self.param("bias", partitioned(bias_init, self.bias_axes),
                          y.shape[-len(self.bias_axes):], jnp.float32)
        return y + jnp.broadcast_to(bias.astype(out_dtype), y.shape)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32.

    Attributes:
      eps: added to the mean square.
      dtype: dtype of y; the parameter `scale` is float32.
    """

    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", partitioned(nn.initializers.ones, ("norm",)),
                           (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (x * jnp.broadcast_to(scale, x.shape)).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def unshard(kernel: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Constrains a parameter to be replicated along its "embed" axis, for use in a product.

    Parameters are stored sharded along "embed" over the fsdp mesh axis, over which the batch is
    split too, so each device needs the whole axis to compute its rows. The constraint is explicit
    because the partitioner of jax 0.10.2 otherwise computes wrong products on meshes with three
    axes. The gradient is constrained to the stored sharding, so that no device holds all of it.

    Args:
      kernel: the parameter, in the compute dtype.
      axes: its logical axis names.
    """
    return constrain(kernel, *(None if axis == "embed" else axis for axis in axes))


unshard.defvjp(lambda kernel, axes: (unshard(kernel, axes), None),
               lambda axes, _, gradient: (constrain(gradient, *axes),))


def partitioned(init: Callable, axes: tuple[str | None, ...]) -> Callable:
    """Wraps an initializer so that its array is boxed with logical axis names."""
    return nn.with_logical_partitioning(init, axes)
