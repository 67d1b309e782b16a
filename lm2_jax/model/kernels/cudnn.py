"""Attention by cuDNN's flash kernel on NVIDIA GPUs.

The kernel takes no mask of keys, only how many keys of each row are valid, so the valid keys of a
row are moved to its front. A causal mask aligns the first query with the first key there; so the
queries are moved in the same way, after zeros have been put in front for the keys that precede
them. Where gradients are taken, jax has the kernel refuse an odd number of queries or keys, so that
one is added.
"""

import jax
import jax.numpy as jnp

from lm2_jax.model.kernels.mask import Mask

try:  # jax.nn.dot_product_attention rounds the log-sum-exp of the kernel to bfloat16
    from jax._src.cudnn import fused_attention_stablehlo as fused
except ImportError:
    fused = None  # type: ignore[assignment]

DTYPES = ("bfloat16", "float16")
HEAD_DIM, HEAD_DIM_OF_HOPPER = 128, 256  # largest head_dim


def takes(q_BTNH: jax.Array) -> bool:
    """Whether the kernel takes such queries on the GPU of this process."""
    H = q_BTNH.shape[-1]
    if q_BTNH.dtype not in DTYPES or H % 8 or jax.default_backend() != "gpu":
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "0"))
    return H <= (HEAD_DIM if float(capability) < 9 else HEAD_DIM_OF_HOPPER)


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask,
              log_sum_exp: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """Returns (softmax(q k^T / sqrt(H)) v, log-sum-exp of the affinities).

    The first is [B, T, N, H] in the dtype of q. The second is float32 [B, N, T] without a gradient;
    it is None unless it is asked for, if the mask is causal, and if this version of jax does not
    give it.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    if mask.valid_BS is None and T % 2 == S % 2 == 0 and (not mask.causal or S == T):
        return _kernel(q_BTNH, k_BSKH, v_BSKH, None, mask.causal, log_sum_exp)
    valid_BS = jnp.ones((len(q_BTNH), S), bool) if mask.valid_BS is None else mask.valid_BS
    if mask.causal:
        q_BTNH = jnp.pad(q_BTNH, ((0, 0), (S - T, 0), (0, 0), (0, 0)))
    q_BTNH, k_BSKH, v_BSKH, valid_BS = map(_even, (q_BTNH, k_BSKH, v_BSKH, valid_BS))
    # Masked keys and values are 0, so that they get no gradient, whatever the kernel returns.
    k_BSKH, v_BSKH = (jnp.where(valid_BS[..., None, None], x, 0) for x in (k_BSKH, v_BSKH))
    order_BS = jnp.argsort(~valid_BS, axis=1, stable=True)
    k_BSKH, v_BSKH = (_take(x, order_BS) for x in (k_BSKH, v_BSKH))
    if mask.causal:
        q_BTNH = _take(q_BTNH, order_BS)
    # A row without a key would be undefined.
    lengths_B = jnp.maximum(jnp.sum(valid_BS, axis=1, dtype=jnp.int32), 1)
    out_BTNH, log_sum_BNT = _kernel(q_BTNH, k_BSKH, v_BSKH, lengths_B, mask.causal, log_sum_exp)
    if mask.causal:
        return _take(out_BTNH, jnp.argsort(order_BS, axis=1)[:, S - T:S]), None
    return out_BTNH[:, :T], None if log_sum_BNT is None else log_sum_BNT[..., :T]


def _kernel(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, lengths_B: jax.Array | None,
            causal: bool, log_sum_exp: bool) -> tuple[jax.Array, jax.Array | None]:
    """Calls the kernel, with the number of valid keys of each row; None if all are valid."""
    if fused is None or causal or not log_sum_exp:
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, is_causal=causal, implementation="cudnn",
            key_value_seq_lengths=lengths_B), None
    B, T, _, H = q_BTNH.shape
    lengths: dict = dict(mask_type=fused.MaskType.NO_MASK) if lengths_B is None else dict(
        q_seqlen=jnp.full(B, T, jnp.int32), kv_seqlen=lengths_B, mask_type=fused.MaskType.PADDING)
    out_BTNH, log_sum_BNT = fused.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, scale=H**-0.5, return_residual=True, **lengths)
    return out_BTNH, jax.lax.stop_gradient(log_sum_BNT)


def _even(x: jax.Array) -> jax.Array:
    """Adds zeros or False at the end of the second axis if its length is odd."""
    return jnp.pad(x, [(0, x.shape[1] % 2 if axis == 1 else 0) for axis in range(x.ndim)])


def _take(x_BSKH: jax.Array, index_BS: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BSKH, index_BS[..., None, None], axis=1)
