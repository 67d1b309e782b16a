"""Backend-dependent choices: the attention kernel and the unrolling of scans."""

from typing import Literal, cast

import jax
import jax.numpy as jnp

CPU_UNROLL = 8
CPU_COPY = 2**22
GPU_FILLING = 2**22
MASKED = -1e30  # affinity of what is masked, finite so that gradients are


def unroll(length: int, copied: int = 0) -> int:
    """Returns the `unroll` argument for a `lax.scan` of `length` blocks or segments.

    Args:
      length: of the scan.
      copied: bytes of one iteration's parameters, which XLA copies from those of all iterations
        where the loop is unrolled; 0 where that does not matter.

    On a single CPU device it is min(length, CPU_UNROLL), because loops hinder XLA's CPU
    compiler; but 1 if an iteration would copy more than CPU_COPY bytes, which takes longer. It is 1
    on accelerators, and on meshes of several CPU devices, which are used to test the programs of
    accelerators. The devices of the current mesh decide, if there is one, so that a program can be
    traced on a CPU for other devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    on_cpu = _platform() == "cpu" and (mesh.empty or mesh.size == 1)
    return min(CPU_UNROLL, length) if on_cpu and copied <= CPU_COPY else 1


def filling_tokens(width: int) -> int:
    """Returns the number of tokens at which one block of this embed_dim fills a device.

    With fewer tokens several blocks at once take hardly more time than one. On GPUs the number is
    GPU_FILLING / width: tiles of a matrix product are shared out over the multiprocessors. It
    follows from 1.8 times the rate of the sequential schedule, published (arXiv 2506.05229) for 16
    blocks of width 2048 at once, each with 1,152 tokens, on an A100. On CPUs, and on TPUs, which
    compute one product after the other, it is 0.
    """
    return GPU_FILLING // width if _platform() in ("gpu", "cuda", "rocm") else 0


def _platform() -> str | None:
    """The platform of the current mesh, None if it is unknown; without a mesh the default one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend()
    return getattr(getattr(mesh, "abstract_device", None), "platform", None)


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array,
              implementation: str = "xla") -> jax.Array:
    """Grouped-query attention, softmax(q k^T / sqrt(H)) v over the keys where the mask is True.

    Args:
      q_BTNH: rotated queries of N heads.
      k_BSKH: rotated keys of K heads; K divides N.
      v_BSKH: values.
      mask_BTS: bool. The output of a token whose mask is all False is finite but unspecified.
      implementation: "xla" for every backend; "cudnn" for NVIDIA GPUs, in bfloat16 or float16.

    Returns:
      [B, T, N, H] in the dtype of q.

    Raises:
      ValueError: if "cudnn" is asked for on another backend.
    """
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(f"model.attention_implementation is 'cudnn' on {jax.default_backend()}; "
                         "it needs an NVIDIA GPU, use 'xla' here")
    name = cast(Literal["xla", "cudnn"], implementation)
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None],
                                        implementation=name)


def attention_with_cache(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array,
                         key_BKCH: jax.Array, value_BKCH: jax.Array, mask_BTS: jax.Array
                         ) -> jax.Array:
    """Grouped-query attention over the C places of a cache and, after them, T new tokens.

    It is `attention` over both, without putting them together, which would copy the cache.

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
