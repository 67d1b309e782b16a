"""Attention by JAX's splash kernel for TPUs, and the gradient of its log-sum-exp.

JAX differentiates only the output of the kernel. A gradient of the log-sum-exp only changes what
the backward kernel subtracts from the gradient of each softmax, `di` below; so the backward kernel
is called directly.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from lm2_jax.model.kernels.mask import Mask
from lm2_jax.model.kernels.platform import platform

LANES = 128  # lengths are padded to multiples of it
BLOCK = 512  # most queries or keys of a block
FUSED_KEYS = 8192  # with more keys, a separate backward kernel for q takes less memory


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, out_dtype
              ) -> tuple[jax.Array, jax.Array]:
    """Returns (softmax(q k^T / sqrt(H)) v, log-sum-exp of the affinities, float32 [B, N, T]).

    The arguments are those of `kernels.attention`. On a CPU the kernel is interpreted, which is
    slow.
    """
    (B, T, _, H), S = q_BTNH.shape, k_BSKH.shape[1]
    valid_BS = jnp.ones((B, S), bool) if mask.valid_BS is None else mask.valid_BS
    q_BNTH, k_BKSH, v_BKSH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    q_BNTH = (q_BNTH.astype(jnp.float32) * H**-0.5).astype(q_BTNH.dtype)
    q_BNTH, k_BKSH, v_BKSH = (_padded(x, axis=2) for x in (q_BNTH, k_BKSH, v_BKSH))
    out_BNTH, lse_BNT = _attention(q_BNTH, k_BKSH, v_BKSH, _padded(valid_BS, axis=1),
                                   S - T if mask.causal else None)
    return out_BNTH[:, :, :T].swapaxes(1, 2).astype(out_dtype), lse_BNT[..., :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q_BNTH, k_BKSH, v_BKSH, valid_BS, offset: int | None):
    """`attention` of scaled queries; `offset` is how many keys precede them if it is causal."""
    def forward(interpret, *arrays):
        def row(q_NTH, k_KSH, v_KSH, valid_S):
            kernel = _kernel(q_NTH, k_KSH, offset, interpret)
            out_NTH, (lse_NT,) = kernel(q_NTH, k_KSH, v_KSH, _segments(q_NTH, valid_S))
            return out_NTH, lse_NT

        return jax.vmap(row)(*arrays)

    return _on_platform(forward, q_BNTH, k_BKSH, v_BKSH, valid_BS)


def _forward(q_BNTH, k_BKSH, v_BKSH, valid_BS, offset):
    out, lse = _attention(q_BNTH, k_BKSH, v_BKSH, valid_BS, offset)
    return (out, lse), (q_BNTH, k_BKSH, v_BKSH, valid_BS, out, lse)


def _backward(offset, residuals, gradients):
    q_BNTH, k_BKSH, v_BKSH, valid_BS, out, lse = residuals
    of_out, of_lse = gradients
    di_BNT = jnp.sum(out.astype(jnp.float32) * of_out.astype(jnp.float32), axis=-1) - of_lse

    def backward(interpret, *arrays):
        def row(q_NTH, k_KSH, v_KSH, valid_S, lse_NT, do_NTH, di_NT):
            kernel = _kernel(q_NTH, k_KSH, offset, interpret)
            sizes = kernel.kwargs["block_sizes"]
            shared = dict(is_mqa=False, mask_value=splash.DEFAULT_MASK_VALUE, interpret=interpret,
                          attn_logits_soft_cap=None, mask_function=kernel.kwargs["mask_function"],
                          q_layout=sizes.q_layout, k_layout=sizes.k_layout,
                          v_layout=sizes.v_layout)
            operands = (q_NTH, k_KSH, v_KSH, _segments(q_NTH, valid_S), None, lse_NT, do_NTH, di_NT)
            dq, dk, dv = splash._splash_attention_bwd_dkv(
                *operands, bq=sizes.block_q_dkv, bkv=sizes.block_kv_dkv,
                bkv_compute=sizes.block_kv_dkv_compute, mask_info=kernel.dkv_mask_info,
                use_fused_bwd_kernel=sizes.use_fused_bwd_kernel, **shared)
            if dq is None:
                dq = splash._splash_attention_bwd_dq(
                    *operands, bq=sizes.block_q_dq, bkv=sizes.block_kv_dq,
                    mask_info=kernel.dq_mask_info, **shared)
            return dq, dk, dv

        return jax.vmap(row)(*arrays)

    return (*_on_platform(backward, q_BNTH, k_BKSH, v_BKSH, valid_BS, lse,
                          of_out.astype(q_BNTH.dtype), di_BNT), None)


_attention.defvjp(_forward, _backward)


def _kernel(q_NTH: jax.Array, k_KSH: jax.Array, offset: int | None, interpret: bool):
    """The kernel for such queries and keys, returning residuals."""
    (N, T, _), S = q_NTH.shape, k_KSH.shape[1]
    rows, columns = _block(T), _block(S)
    fused = S <= FUSED_KEYS
    one = (masks.FullMask((T, S)) if offset is None else
           masks.CausalMask((T, S), offset))
    sizes = splash.BlockSizes(
        block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns,
        block_kv_dkv_compute=columns, use_fused_bwd_kernel=fused,
        block_q_dq=None if fused else rows, block_kv_dq=None if fused else columns)
    return splash.make_splash_mha(
        masks.MultiHeadMask([one] * N), block_sizes=sizes, head_shards=1, q_seq_shards=1,
        save_residuals=True, interpret=interpret)


def _segments(q_NTH: jax.Array, valid_S: jax.Array) -> splash.SegmentIds:
    """Segment ids by which every query sees the valid keys."""
    return splash.SegmentIds(q=jnp.ones(q_NTH.shape[1], jnp.int32), kv=valid_S.astype(jnp.int32))


def _on_platform(function, *arrays):
    """Returns function(interpret, *arrays), interpreted where it is compiled for a CPU."""
    if platform() == "tpu":
        return function(False, *arrays)
    return jax.lax.platform_dependent(*arrays, cpu=functools.partial(function, True),
                                      default=functools.partial(function, False))


def _block(length: int) -> int:
    return next(size for size in range(BLOCK, 0, -LANES) if length % size == 0)


def _padded(x: jax.Array, axis: int) -> jax.Array:
    more = [(0, 0)] * x.ndim
    more[axis] = (0, -x.shape[axis] % LANES)
    return jnp.pad(x, more)
