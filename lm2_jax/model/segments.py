"""What the blocks take for a segment besides its tokens: the window, the mask, the rotations."""

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import ModelConfig
from lm2_jax.model import attention, rope
from lm2_jax.model import memory as memories
from lm2_jax.types import Window


def memory_blocks(config: ModelConfig) -> int:
    """Returns the number of blocks that have a memory of their own, P."""
    kind = memories.kind_of(config)
    return config.memory.num_layers if kind and kind.block else 0


def cached(config: ModelConfig, window: Window | None, valid_BS: jax.Array
           ) -> tuple[jax.Array, jax.Array]:
    """Returns the keys and values of all blocks before the segment, [Q, B, W, K, H] each."""
    c = config
    return (window.key_QBWKH, window.value_QBWKH) if window else (
        jnp.zeros((c.num_layers, valid_BS.shape[0], 0, c.num_kv_heads, c.head_dim), c.dtype),) * 2


def block_inputs(config: ModelConfig, window: Window | None, valid_BS: jax.Array) -> tuple:
    """Returns what all blocks get for a segment: (the mask, valid_BS, the rotations of RoPE).

    Args:
      window: before the segment.
      valid_BS: bool, False for padding; memory tokens included.
    """
    c, (positions, _) = config, _layout(config, valid_BS.shape[1])
    W = window.valid_BW.shape[1] if window else 0
    freq = rope.frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    kv_positions = np.concatenate([np.arange(-W, 0), positions])
    kv_positions -= kv_positions.min()
    return attention.causal_mask(window, valid_BS), valid_BS, rope.table(kv_positions, freq)


def update_window(config: ModelConfig, window: Window, key_QBSKH: jax.Array,
                  value_QBSKH: jax.Array, valid_BS: jax.Array) -> Window:
    """Returns the window after a segment; memory tokens do not enter it.

    Args:
      window: before the segment.
      key_QBSKH: keys of window and segment, of all blocks or of some.
      value_QBSKH: their values.
      valid_BS: bool, False for padding; memory tokens included.
    """
    _, of_segment = _layout(config, valid_BS.shape[1])
    return attention.update_window(window, key_QBSKH, value_QBSKH, valid_BS & of_segment[None])


def _layout(config: ModelConfig, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the position of each of the S tokens of a segment, its first token having 0, and
    which of them are not memory tokens: int and bool [S].
    """
    kind, T = memories.kind_of(config), size - memories.num_memory_tokens(config)
    if not kind or not kind.tokens:
        return np.arange(T), np.ones(T, bool)
    tokens = kind.tokens(config, parent=None)
    return tokens.positions(T), tokens.of_segment(T)
