"""Rotary position embeddings (RoPE) with Llama-3's scaling."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import RopeScaling


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Radians per position of each pair of channels, float64 [H/2].

    With scaling, wavelengths longer than original / low_freq_factor are stretched by `factor`,
    those shorter than original / high_freq_factor are kept, and between the two the blend is
    linear in original / wavelength.
    """
    freq = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return freq
    rotations = scaling.original_max_position * freq / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    return keep * freq + (1.0 - keep) * freq / scaling.factor


def table(positions: np.ndarray, freq: np.ndarray) -> jax.Array:
    """cos and sin of the positions, float32 [2, positions, H/2]."""
    angle = positions[:, None] * freq[None, :]
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), jnp.float32)


def rotate(x_BTNH: jax.Array, table_2TH: jax.Array) -> jax.Array:
    """Rotates channel i with channel i + H/2 by the angle of the position; dtype kept."""
    cos, sin = table_2TH[:, None, :, None, :]
    cos, sin = (jnp.broadcast_to(a, x_BTNH.shape[:-1] + a.shape[-1:]) for a in (cos, sin))
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
