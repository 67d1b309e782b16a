"""One attention for the tokens of a segment and for the read and the write of a memory."""

import functools
from typing import Literal, overload

import jax

from lm2_jax import shards
from lm2_jax.model.kernels import chunked, cudnn, whole
from lm2_jax.model.kernels.mask import Mask
from lm2_jax.model.kernels.platform import platform

# The most affinities of a head that "auto" computes at once. On a CPU more of them are faster in
# chunks, which stay in its cache.
WHOLE, CPU_WHOLE = 2**21, 2**15
SPLASH_LENGTH = 128  # to which the kernel pads; shorter queries or keys would waste its work


@overload
def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask,
              implementation: str = ..., *, out_dtype: str | None = ...,
              log_sum_exp: Literal[False] = ...) -> jax.Array: ...


@overload
def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask,
              implementation: str = ..., *, out_dtype: str | None = ...,
              log_sum_exp: Literal[True]) -> tuple[jax.Array, jax.Array]: ...


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask,
              implementation: str = "auto", *, out_dtype: str | None = None,
              log_sum_exp: bool = False) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Grouped-query attention, softmax(q k^T / sqrt(H)) v over the keys that the mask shows.

    Args:
      q_BTNH: queries of N heads.
      k_BSKH: keys of K heads; K divides N. They are not repeated.
      v_BSKH: values.
      mask: which keys a query sees. The results of a query that sees none are finite but
        unspecified.
      implementation: "xla", which holds all affinities [B, N, T, S] at once, or "chunked", which
        does not, for every backend; "splash" for TPUs; "cudnn" for NVIDIA GPUs, in bfloat16 or
        float16. "auto" takes the kernel of the platform where it takes the arguments, else "xla"
        if there are few affinities, else "chunked".
      out_dtype: of the output; None for that of q.
      log_sum_exp: whether to return the log-sum-exp of the affinities too.

    Returns:
      [B, T, N, H], or a pair of it and the log-sum-exp, float32 [B, N, T]. Both have gradients.

    Raises:
      ValueError: if `implementation` is "cudnn" and the backend is not a GPU.
    """
    chosen = _choose(implementation, q_BTNH, k_BSKH)
    dtype = out_dtype or q_BTNH.dtype
    if chosen == "xla":
        found = whole.attention(q_BTNH, k_BSKH, v_BSKH, mask, dtype)
        return found if log_sum_exp else found[0]
    length = ("act_batch", "act_len", "act_heads", "act_head_dim")
    names = (length, length, length, None if mask.valid_BS is None else ("act_batch", "act_len"))
    outputs = (length, ("act_batch", "act_heads", "act_len")) if log_sum_exp else length
    run = functools.partial(_run, chosen, dtype, log_sum_exp, mask.causal)
    return shards.on_shards(run, names, outputs)(q_BTNH, k_BSKH, v_BSKH, mask.valid_BS)


def _run(chosen: str, dtype, log_sum_exp: bool, causal: bool, q_BTNH, k_BSKH, v_BSKH, valid_BS):
    """Returns what `attention` returns, for arrays of one device."""
    mask = Mask(valid_BS, causal)
    if chosen == "cudnn":
        out_BTNH, log_sum_BNT = cudnn.attention(q_BTNH, k_BSKH, v_BSKH, mask, log_sum_exp)
        out_BTNH = out_BTNH.astype(dtype)
        return (out_BTNH, chunked.log_sum_exp(q_BTNH, k_BSKH, mask, log_sum_BNT)
                ) if log_sum_exp else out_BTNH
    if chosen == "splash":
        from lm2_jax.model.kernels import splash  # Pallas takes time to import

        found = splash.attention(q_BTNH, k_BSKH, v_BSKH, mask, dtype)
    else:
        found = chunked.attention(q_BTNH, k_BSKH, v_BSKH, mask, dtype)
    return found if log_sum_exp else found[0]


def _choose(implementation: str, q_BTNH: jax.Array, k_BSKH: jax.Array) -> str:
    """Returns the name of an implementation other than "auto"."""
    T, S, found = q_BTNH.shape[1], k_BSKH.shape[1], platform()
    if implementation == "auto":
        if found == "tpu" and min(T, S) >= SPLASH_LENGTH:
            return "splash"
        # Decoding has a single query. For it XLA reads keys and values in place; for a kernel it
        # would first copy those of each block out of the array of all blocks.
        if found == "gpu" and T > 1 and cudnn.takes(q_BTNH):
            return "cudnn"
        return "xla" if T * S <= (CPU_WHOLE if found == "cpu" else WHOLE) else "chunked"
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(f"model.attention_implementation is 'cudnn' on {jax.default_backend()}; "
                         "it needs an NVIDIA GPU, use 'auto' here")
    return implementation


def weights(q_BTNH: jax.Array, k_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """Returns the attention weights softmax(q k^T / sqrt(H)), [B, N, T, S] in the dtype of q."""
    return jax.nn.softmax(whole.affinities(q_BTNH, k_BSKH, mask), axis=-1).astype(q_BTNH.dtype)
