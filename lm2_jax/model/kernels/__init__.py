"""All that depends on the backend: attention kernels and the unrolling of loops."""

from lm2_jax.model.kernels.dispatch import attention, weights
from lm2_jax.model.kernels.mask import Mask
from lm2_jax.model.kernels.platform import (
    CPU_COPY,
    CPU_UNROLL,
    DECODING_OPTIONS,
    filling_tokens,
    platform,
    unroll,
)
from lm2_jax.model.kernels.products import product
from lm2_jax.model.kernels.whole import MASKED, affinities, attention_with_cache, weighted

__all__ = ["CPU_COPY", "CPU_UNROLL", "DECODING_OPTIONS", "MASKED", "Mask", "affinities",
           "attention", "attention_with_cache", "filling_tokens", "platform", "product", "unroll",
           "weighted", "weights"]
