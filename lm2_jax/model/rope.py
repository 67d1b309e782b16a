"""Rotary position embeddings (RoPE) with Llama-3's scaling."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import RopeScaling


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Returns the rotation of each pair of channels, float64 [H/2], in radians per position.

    Without scaling it is theta^(-2i / H) for pair i. With scaling, where C is
    `original_max_position`, frequencies with wavelengths above C / low_freq_factor are divided by
    `factor`, those with wavelengths below C / high_freq_factor are unchanged, and the others are
    interpolated linearly in C / wavelength.
    """
    freq = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return freq
    rotations = scaling.original_max_position * freq / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    unscaled = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    return unscaled * freq + (1.0 - unscaled) * freq / scaling.factor


def table(positions: np.ndarray, freq: np.ndarray) -> jax.Array:
    """Returns cos and sin of position * frequency, float32 [2, positions, H/2]."""
    angle = positions[:, None] * freq[None, :]
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), jnp.float32)


def rotate(x_BTNH: jax.Array, table_2TH: jax.Array) -> jax.Array:
    """Rotates the channel pairs (i, i + H/2) by the angle of each position.

    Args:
      x_BTNH: queries or keys, of any float dtype.
      table_2TH: from `table`, float32 [2, T, H/2], or [2, B, T, H/2] with positions of each row.

    Returns:
      [B, T, N, H] in the dtype of x; computed in float32.
    """
    cos, sin = table_2TH[..., None, :]
    cos, sin = (jnp.broadcast_to(a, x_BTNH.shape[:-1] + a.shape[-1:]) for a in (cos, sin))
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
