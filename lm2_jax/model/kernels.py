"""Attention kernels: the only file that knows backends."""

from typing import Literal, cast

import jax


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array,
              implementation: str = "xla") -> jax.Array:
    """Grouped-query attention, softmax(q k^T / sqrt(H)) v where the mask is True.

    Args:
      mask_BTS: bool; a token whose row is all False gets a finite value of no meaning.
      implementation: "xla" anywhere, "cudnn" on NVIDIA GPUs in bfloat16 or float16.

    Returns:
      [B, T, N, H] in the dtype of q.
    """
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(f"model.attention_implementation is 'cudnn' on {jax.default_backend()}; "
                         "it needs an NVIDIA GPU, use 'xla' here")
    name = cast(Literal["xla", "cudnn"], implementation)
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None],
                                        implementation=name)
