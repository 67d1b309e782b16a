"""Causal self-attention of a segment, with keys and values carried over if configured."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model import kernels, rope
from lm2_jax.model.linear import Linear
from lm2_jax.partition import constrain
from lm2_jax.types import Window


class Attention(nn.Module):
    """Grouped-query attention; tokens see the window and the segment up to themselves."""

    config: ModelConfig

    @nn.compact
    def __call__(self, a_BTD, window_BWKH, mask_BTS, rope_2SH):
        """Returns what is added to the stream, [B, T, D], and this segment's keys and values.

        Args:
          a_BTD: the normalised input.
          window_BWKH: (keys, values) of the W tokens before the segment; W may be 0.
          mask_BTS: bool, S = W + T: what each token may see.
          rope_2SH: rotation of the positions 0..S-1, of which the segment has the last T.
        """
        c = self.config
        D, N, K, H = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim
        kv = partial(Linear, "BTD,DKH->BTKH", (D, K, H), ("embed", "kv_heads", "head_dim"),
                     dtype=c.dtype)
        q_BTNH = Linear("BTD,DNH->BTNH", (D, N, H), ("embed", "heads", "head_dim"),
                        dtype=c.dtype, name="q_proj")(a_BTD)
        k_BTKH = kv(name="k_proj")(a_BTD)
        v_BTKH = kv(name="v_proj")(a_BTD)
        q_BTNH = constrain(q_BTNH, "act_batch", "act_len", "act_heads", "act_head_dim")
        k_BTKH, v_BTKH = (constrain(x, "act_batch", "act_len", "act_kv_heads", "act_head_dim")
                          for x in (k_BTKH, v_BTKH))
        k_BSKH, v_BSKH = (jnp.concatenate([old, new], axis=1)
                          for old, new in zip(window_BWKH, (k_BTKH, v_BTKH), strict=True))
        T = a_BTD.shape[1]
        out_BTNH = kernels.attention(rope.rotate(q_BTNH, rope_2SH[:, -T:]),
                                     rope.rotate(k_BSKH, rope_2SH), v_BSKH, mask_BTS,
                                     c.attention_implementation)
        out_BTD = Linear("BTNH,NHD->BTD", (N, H, D), ("heads", "head_dim", "embed"),
                         scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype,
                         name="o_proj")(out_BTNH)
        return out_BTD, (k_BSKH, v_BSKH)


def visible(window: Window | None, valid_BT: jax.Array) -> jax.Array:
    """[B, T, W + T] bool: the valid tokens of the window, and of the segment up to oneself."""
    B, T = valid_BT.shape
    causal_TT = jnp.tril(jnp.ones((T, T), bool))
    mask_BTT = jnp.broadcast_to(causal_TT, (B, T, T)) & valid_BT[:, None, :]
    if window is None:
        return mask_BTT
    window_BTW = jnp.broadcast_to(window.valid_BW[:, None, :], (B, T, window.valid_BW.shape[1]))
    return jnp.concatenate([window_BTW, mask_BTT], axis=2)


def newest(valid_BS: jax.Array, size: int) -> jax.Array:
    """[B, size] places of the last `size` valid tokens in order, the invalid ones before them."""
    return jnp.argsort(valid_BS, axis=1, stable=True)[:, valid_BS.shape[1] - size:]


def slide(window: Window, key_QBSKH, value_QBSKH, valid_BT: jax.Array) -> Window:
    """The window after a segment: the newest valid tokens of window and segment together.

    Places without a token hold zeros, so that padding leaves no trace.
    """
    W = window.valid_BW.shape[1]
    valid_BS = jnp.concatenate([window.valid_BW, valid_BT], axis=1)
    place_BW = newest(valid_BS, W)
    valid_BW = jnp.take_along_axis(valid_BS, place_BW, axis=1)

    def taken(x_QBSKH: jax.Array) -> jax.Array:
        x_QBWKH = jnp.take_along_axis(x_QBSKH, place_BW[None, :, :, None, None], axis=2)
        return jnp.where(valid_BW[None, :, :, None, None], x_QBWKH, 0)

    return Window(key_QBWKH=taken(key_QBSKH), value_QBWKH=taken(value_QBSKH), valid_BW=valid_BW)
