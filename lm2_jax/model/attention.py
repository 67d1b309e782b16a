"""Causal self-attention within a segment, with an optional window of cached keys and values."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model import kernels, rope
from lm2_jax.model.kernels import Mask
from lm2_jax.model.linear import Linear
from lm2_jax.partition import constrain
from lm2_jax.types import Window


class Attention(nn.Module):
    """Grouped-query attention over the cached window and the segment; the caller gives the mask.

    Attributes:
      config: of the model.
      running: whether the tokens continue a segment, whose keys and values are in a cache.
    """

    config: ModelConfig
    running: bool = False

    @nn.compact
    def __call__(self, a_BTD, window_BWKH, mask, rope_2SH):
        """Computes attention of T queries over S = W + T keys.

        Where a segment continues, C places of the cache take the place of the W tokens before it.

        Args:
          a_BTD: normalised input, in the compute dtype.
          window_BWKH: (keys, values) of the W tokens before the segment, not rotated; W may be 0.
            Of a cache, [B, K, C, H], the keys being rotated.
          mask: which keys a query attends to, a `Mask`; with a cache, bool [B, T, C + T].
          rope_2SH: float32 [2, S, H/2], cos and sin of the positions of all keys; those of the
            queries are the last T. With a cache, [2, B, T, H/2]: those of the queries of each row.

        Returns:
          (output [B, T, D], (keys, values) [B, S, K, H] of window and segment, not rotated; with a
          cache, those of the T tokens, [B, T, K, H], the keys being rotated), in the compute dtype.
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
        if self.running:
            (key_BKCH, value_BKCH), k_BSKH = window_BWKH, rope.rotate(k_BTKH, rope_2SH)
            v_BSKH = v_BTKH
            out_BTNH = kernels.attention_with_cache(rope.rotate(q_BTNH, rope_2SH), k_BSKH, v_BSKH,
                                                    key_BKCH, value_BKCH, mask)
        else:
            k_BSKH, v_BSKH = (jnp.concatenate([old, new], axis=1)
                              for old, new in zip(window_BWKH, (k_BTKH, v_BTKH), strict=True))
            T = a_BTD.shape[1]
            out_BTNH = kernels.attention(rope.rotate(q_BTNH, rope_2SH[:, -T:]),
                                         rope.rotate(k_BSKH, rope_2SH), v_BSKH, mask,
                                         c.attention_implementation)
        out_BTD = Linear("BTNH,NHD->BTD", (N, H, D), ("heads", "head_dim", "embed"),
                         scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype,
                         name="o_proj")(out_BTNH)
        return out_BTD, (k_BSKH, v_BSKH)


def causal_mask(window: Window | None, valid_BT: jax.Array) -> Mask:
    """Returns the attention mask of T tokens over W + T keys (W = 0 without a window).

    A token attends to the valid tokens of the window, and to the valid tokens of the segment up to
    and including itself.
    """
    valid = [valid_BT] if window is None else [window.valid_BW, valid_BT]
    return Mask(valid_BS=jnp.concatenate(valid, axis=1), causal=True)


def last_valid(valid_BS: jax.Array, size: int) -> jax.Array:
    """Returns the indices of the last `size` valid tokens of each row, int32 [B, size].

    They are in order. If a row has fewer valid tokens, indices of invalid ones precede them.
    """
    return jnp.argsort(valid_BS, axis=1, stable=True)[:, valid_BS.shape[1] - size:]


def update_window(window: Window, key_QBSKH: jax.Array, value_QBSKH: jax.Array,
                  valid_BT: jax.Array) -> Window:
    """Returns the window with the last W valid tokens of the old window and the segment.

    Args:
      window: the window before the segment, of W tokens.
      key_QBSKH: keys of all blocks for window and segment, S = W + T.
      value_QBSKH: values of all blocks for window and segment.
      valid_BT: bool, the valid tokens of the segment.

    Entries without a token are zero, so the result does not depend on the content of padding.
    """
    W = window.valid_BW.shape[1]
    valid_BS = jnp.concatenate([window.valid_BW, valid_BT], axis=1)
    index_BW = last_valid(valid_BS, W)
    valid_BW = jnp.take_along_axis(valid_BS, index_BW, axis=1)

    def select(x_QBSKH: jax.Array) -> jax.Array:
        x_QBWKH = jnp.take_along_axis(x_QBSKH, index_BW[None, :, :, None, None], axis=2)
        return jnp.where(valid_BW[None, :, :, None, None], x_QBWKH, 0)

    return Window(key_QBWKH=select(key_QBSKH), value_QBWKH=select(value_QBSKH), valid_BW=valid_BW)
