"""Associative Recurrent Memory Transformer (arXiv 2407.04841).

Each block has an associative memory, a matrix that is a sum of outer products of keys and values.
Writing a value under a key first removes the value stored there (the delta rule). The memory tokens
after a segment give the keys and values that are written; every token of the next segment reads.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import Linear
from lm2_jax.model.memory.base import BlockMemory, MemoryTokens

EPSILON = 1e-5
DPFP_ORDER = 3  # nu
PRECISION = jax.lax.Precision.HIGHEST  # a TPU rounds float32 operands to bfloat16 by default


class AssociativeState(NamedTuple):
    """The state of one block; that of P blocks has a leading axis of size P.

    Attributes:
      matrix_BED: float32, A below, of E = 2 nu key_dim features.
      norm_BE: float32, z below.
    """

    matrix_BED: jax.Array
    norm_BE: jax.Array


class AssociativeMemory(BlockMemory):
    """Reads before the block, and writes after it from the M memory tokens m.

    The read is x + A phi(q) / (z . phi(q)) with q = x W_q. The write, with k = m W_k, v = m W_v and
    beta = sigmoid(m W_beta + b), is

        old   = A phi(k) / (z . phi(k))
        A    <- A + beta (v - old) (x) phi(k)                      (x): outer product
        z    <- z + clip(1 - z . phi(k), 0, 1) phi(k)

    summed over the memory tokens. phi has unit length. The clipped factor has no gradient.
    """

    def setup(self):
        c = self.config
        D, K = c.embed_dim, c.memory.key_dim
        linear = partial(Linear, dtype=c.dtype, out_dtype="float32")
        self.q_proj = linear("BTD,DK->BTK", (D, K), ("embed", "memory_key"))
        self.k_proj = linear("BTD,DK->BTK", (D, K), ("embed", "memory_key"))
        # Values are zero at first, so the memory stays empty until training changes them.
        self.v_proj = linear("BTD,DE->BTE", (D, D), ("embed", "mlp"), scale=0.0)
        self.write_gate = linear("BTD,DK->BTK", (D, 1), ("embed", "memory_key"),
                                 bias_axes=("norm",))

    def pre_block(self, x_BSD: jax.Array, state: AssociativeState) -> jax.Array:
        phi_BSE = self._phi(self.q_proj(x_BSD))
        return x_BSD + _retrieve(state, phi_BSE)[0].astype(x_BSD.dtype)

    def post_block(self, x_BSD: jax.Array, state: AssociativeState, valid_BS: jax.Array
                   ) -> AssociativeState:
        M = self.config.memory.num_slots
        m_BMD, writes_B = x_BSD[:, -M:], valid_BS[:, :-M].any(axis=1)
        phi_BME = self._phi(self.k_proj(m_BMD))
        old_BMD, coverage_BM = _retrieve(state, phi_BME, PRECISION)
        value_BMD = self.v_proj(m_BMD)
        beta_BM1 = jax.nn.sigmoid(self.write_gate(m_BMD))
        beta_BM1 = jnp.where(writes_B[:, None, None], beta_BM1, 0.0)
        self.sow("intermediates", "open", beta_BM1)
        new_BM = jax.lax.stop_gradient(jnp.clip(1 - coverage_BM, 0, 1)) * writes_B[:, None]
        return AssociativeState(
            matrix_BED=state.matrix_BED + jnp.einsum(
                "BME,BMD->BED", phi_BME, beta_BM1 * (value_BMD - old_BMD), precision=PRECISION),
            norm_BE=state.norm_BE + jnp.einsum("BM,BME->BE", new_BM, phi_BME, precision=PRECISION))

    def _phi(self, k_BTK: jax.Array) -> jax.Array:
        """Returns the deterministic parameter-free projection (DPFP) of order nu, [B, T, E].

        It is scaled to unit length.
        """
        r = jax.nn.relu(jnp.concatenate([k_BTK, -k_BTK], axis=-1))
        phi = jnp.concatenate([r * jnp.roll(r, shift, axis=-1)
                               for shift in range(1, DPFP_ORDER + 1)], axis=-1)
        return phi * jax.lax.rsqrt(jnp.sum(jnp.square(phi), axis=-1, keepdims=True) + 1e-12)


def _retrieve(state: AssociativeState, phi_BTE: jax.Array,
              precision: jax.lax.Precision | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns A phi / (z . phi), the stored values [B, T, D], and z . phi, [B, T], in float32.

    z . phi is about 1 for a key that has been written, and about 0 for a new one.
    """
    coverage_BT = jnp.einsum("BE,BTE->BT", state.norm_BE, phi_BTE, precision=precision) + EPSILON
    stored_BTD = jnp.einsum("BED,BTE->BTD", state.matrix_BED, phi_BTE, precision=precision)
    return stored_BTD / coverage_BT[..., None], coverage_BT


class WriteTokens(MemoryTokens):
    """[segment, m]: the same learnt memory tokens after every segment."""


def init_state(config: ModelConfig, batch_size: int) -> AssociativeState:
    """Returns the empty memories of P blocks: zeros."""
    m = config.memory
    shape = (m.num_layers, batch_size, 2 * DPFP_ORDER * m.key_dim)
    return AssociativeState(matrix_BED=jnp.zeros((*shape, config.embed_dim), jnp.float32),
                            norm_BE=jnp.zeros(shape, jnp.float32))


def flops(config: ModelConfig) -> float:
    """Returns the forward FLOPs per token and block.

    Per token, memory tokens included, these are q and a retrieval; per memory token k, v, a
    retrieval and the write.
    """
    T, D, m = config.segment_length, config.embed_dim, config.memory
    M, E = m.num_slots, 2 * DPFP_ORDER * m.key_dim
    retrieve = 2 * D * m.key_dim + 2 * E * D
    return retrieve * (T + M) / T + (retrieve + 2 * D * D + 2 * E * D) * M / T
