"""Associative Recurrent Memory Transformer (arXiv 2407.04841).

Each block keeps an associative memory: pairs of a key and a value, summed into one matrix. What
is stored under a key is first taken out (the delta rule). Memory tokens behind a segment say what
is written; every token of the next segment reads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import Linear
from lm2_jax.model.memory.base import BlockMemory, MemoryTokens

EPSILON = 1e-5
DPFP_ORDER = 3  # nu
EXACT = jax.lax.Precision.HIGHEST  # by default a TPU rounds float32 operands to bfloat16


class Associations(NamedTuple):
    """Of one block, or of P blocks with a first axis more.

    Attributes:
      matrix_BED: float32, the sum of phi(key) (x) value; E = 2 nu key_dim.
      norm_BE: float32, the sum of the phi(key), each as far as it was new.
    """

    matrix_BED: jax.Array
    norm_BE: jax.Array


class AssociativeMemory(BlockMemory):
    """x <- x + A phi(x W_q) / (z . phi(x W_q)) before the block; writes of its memory tokens
    after it, with k = m W_k, v = m W_v, beta = sigmoid(m W_beta + b):

        old   = A phi(k) / (z . phi(k))
        A    <- A + beta (v - old) (x) phi(k)
        z    <- z + (1 - z . phi(k)) phi(k),    phi(k) of length 1, the factor within [0, 1]
    """

    def setup(self):
        c = self.config
        D, K = c.embed_dim, c.memory.key_dim
        dtypes = dict(dtype=c.dtype, out_dtype="float32")  # what is summed into the state
        key = dict(equation="BTD,DK->BTK", shape=(D, K), axes=("embed", "memory_key"), **dtypes)
        self.q_proj, self.k_proj = Linear(**key), Linear(**key)
        # Zero values: the memory stays empty until training changes them.
        self.v_proj = Linear("BTD,DE->BTE", (D, D), ("embed", "mlp"), scale=0.0, **dtypes)
        self.write_gate = Linear("BTD,DK->BTK", (D, 1), ("embed", "memory_key"),
                                 bias_axes=("norm",), **dtypes)

    def pre_block(self, x_BSD: jax.Array, state: Associations) -> jax.Array:
        phi_BSE = self._phi(self.q_proj(x_BSD))
        return x_BSD + _recall(state, phi_BSE)[0].astype(x_BSD.dtype)

    def post_block(self, x_BSD: jax.Array, state: Associations, valid_BS: jax.Array
                   ) -> Associations:
        M = self.config.memory.num_slots
        m_BMD, wrote_B = x_BSD[:, -M:], valid_BS[:, :-M].any(axis=1)
        phi_BME = self._phi(self.k_proj(m_BMD))
        old_BMD, known_BM = _recall(state, phi_BME, EXACT)
        value_BMD = self.v_proj(m_BMD)
        beta_BM1 = jax.nn.sigmoid(self.write_gate(m_BMD))
        beta_BM1 = jnp.where(wrote_B[:, None, None], beta_BM1, 0.0)
        new_BM = jax.lax.stop_gradient(jnp.clip(1 - known_BM, 0, 1)) * wrote_B[:, None]
        return Associations(
            matrix_BED=state.matrix_BED + jnp.einsum(
                "BME,BMD->BED", phi_BME, beta_BM1 * (value_BMD - old_BMD), precision=EXACT),
            norm_BE=state.norm_BE + jnp.einsum("BM,BME->BE", new_BM, phi_BME, precision=EXACT))

    def _phi(self, k_BTK: jax.Array) -> jax.Array:
        """The deterministic parameter-free projection (DPFP) of order nu, of length 1."""
        r = jax.nn.relu(jnp.concatenate([k_BTK, -k_BTK], axis=-1))
        phi = jnp.concatenate([r * jnp.roll(r, shift, axis=-1)
                               for shift in range(1, DPFP_ORDER + 1)], axis=-1)
        return phi * jax.lax.rsqrt(jnp.sum(jnp.square(phi), axis=-1, keepdims=True) + 1e-12)


def _recall(state: Associations, phi_BTE: jax.Array, precision: jax.lax.Precision | None = None
            ) -> tuple[jax.Array, jax.Array]:
    """The values stored under the keys, [B, T, D], and how far the keys are known, [B, T]."""
    known_BT = jnp.einsum("BE,BTE->BT", state.norm_BE, phi_BTE, precision=precision) + EPSILON
    stored_BTD = jnp.einsum("BED,BTE->BTD", state.matrix_BED, phi_BTE, precision=precision)
    return stored_BTD / known_BT[..., None], known_BT


class WriteTokens(MemoryTokens):
    """[segment, m]: the same learnt vectors behind every segment."""


def init_state(config: ModelConfig, batch_size: int) -> Associations:
    """Nothing stored."""
    m = config.memory
    shape = (m.num_layers, batch_size, 2 * DPFP_ORDER * m.key_dim)
    return Associations(matrix_BED=jnp.zeros((*shape, config.embed_dim), jnp.float32),
                        norm_BE=jnp.zeros(shape, jnp.float32))


def flops(config: ModelConfig) -> float:
    """Forward FLOPs a token and block. Per token and memory token: q and the recall; per memory
    token: k, v, a recall and the write."""
    T, D, m = config.segment_length, config.embed_dim, config.memory
    M, E = m.num_slots, 2 * DPFP_ORDER * m.key_dim
    recall = 2 * D * m.key_dim + 2 * E * D
    return recall * (T + M) / T + (recall + 2 * D * D + 2 * E * D) * M / T
