"""Attention that holds the affinities of all queries and keys at once, for every backend."""

import jax
import jax.numpy as jnp

from lm2_jax.model.kernels.mask import Mask
from lm2_jax.model.kernels.products import einsum_float32

MASKED = -1e30  # affinity of what is masked, finite so that gradients are


def affinities(q_BTNH: jax.Array, k_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """Returns q k^T / sqrt(H), float32 [B, N, T, S], MASKED where a query does not see a key."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    affinity = einsum_float32("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH).reshape(B, N, T, S) * H**-0.5
    seen_BTS = mask.dense(T, S)
    return affinity if seen_BTS is None else jnp.where(seen_BTS[:, None], affinity, MASKED)


def weighted(affinity_BNTS: jax.Array, v_BSKH: jax.Array, dtype, out_dtype) -> jax.Array:
    """Returns softmax(affinity) v, [B, T, N, H].

    Args:
      affinity_BNTS: float32.
      v_BSKH: values of K heads; K divides N.
      dtype: of the softmax's result, for the product.
      out_dtype: of what is returned: `dtype` or float32.
    """
    (B, N, T, S), (K, H) = affinity_BNTS.shape, v_BSKH.shape[2:]
    A_BKGTS = jax.nn.softmax(affinity_BNTS, axis=-1).astype(dtype).reshape(B, K, N // K, T, S)
    product = jnp.einsum if jnp.dtype(out_dtype) == dtype else einsum_float32
    return product("BKGTS,BSKH->BTKGH", A_BKGTS, v_BSKH).reshape(B, T, N, H)


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, out_dtype
              ) -> tuple[jax.Array, jax.Array]:
    """Returns (softmax(q k^T / sqrt(H)) v, log-sum-exp of the affinities, float32 [B, N, T]).

    The arguments are those of `kernels.attention`.
    """
    affinity_BNTS = affinities(q_BTNH, k_BSKH, mask)
    return (weighted(affinity_BNTS, v_BSKH, q_BTNH.dtype, out_dtype),
            jax.nn.logsumexp(affinity_BNTS, axis=-1))


def attention_with_cache(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array,
                         key_BKCH: jax.Array, value_BKCH: jax.Array, mask_BTS: jax.Array
                         ) -> jax.Array:
    """Grouped-query attention over the C places of a cache and, after them, T new tokens.

    The result is that of `attention` over both. They are not concatenated, which would copy the
    cache.

    Args:
      q_BTNH, k_BTKH, v_BTKH: of the new tokens, queries and keys rotated.
      key_BKCH, value_BKCH: the cache, keys rotated.
      mask_BTS: bool [B, T, C + T]. The output of a token whose mask is all False is finite but
        unspecified.

    Returns:
      [B, T, N, H] in the dtype of q.
    """
    (B, T, N, H), K, C = q_BTNH.shape, k_BTKH.shape[2], key_BKCH.shape[2]
    G = N // K
    # Queries of all tokens and of the G heads of a key are the X rows of one matrix, the T new keys
    # and values the columns of another, which makes fast products.
    q_BKXH = jnp.moveaxis(q_BTNH.reshape(B, T, K, G, H), 1, 3).reshape(B, K, G * T, H)
    k_BKTH, v_BKTH = k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2)
    affinity_BKXS = jnp.concatenate([
        jnp.einsum("BKXH,BKSH->BKXS", q_BKXH, keys, preferred_element_type=jnp.float32)
        for keys in (key_BKCH, k_BKTH)], axis=-1) * H**-0.5
    mask_BKXS = jnp.broadcast_to(mask_BTS[:, None, None], (B, K, G, T, C + T)).reshape(
        affinity_BKXS.shape)
    A_BKXS = jax.nn.softmax(jnp.where(mask_BKXS, affinity_BKXS, MASKED), axis=-1).astype(
        q_BTNH.dtype)
    out_BKXH = (jnp.einsum("BKXS,BKSH->BKXH", A_BKXS[..., :C], value_BKCH)
                + jnp.einsum("BKXS,BKSH->BKXH", A_BKXS[..., C:], v_BKTH))
    return jnp.moveaxis(out_BKXH.reshape(B, K, G, T, H), 3, 1).reshape(B, T, N, H)
