"""The memory of a block (LM2, arXiv 2502.06049, sections 2.1 and 2.2).

The paper's formulas fit together only when a segment has as many tokens as the bank has slots.
Here the write reads the segment from the slots (S below), so that E_mem exists in slot space
whatever T and M are, and it is tied to the read: the same affinities of token and slot, the
softmax over tokens in the place of over slots.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import Linear, RMSNorm, einsum_float32
from lm2_jax.model.memory.base import BlockMemory
from lm2_jax.partition import constrain

MASKED = -1e30
KEY_INIT_SCALE = 2.0  # W_k at the start, as a multiple of W_q


class LM2Memory(BlockMemory):
    """A bank of slots that tokens read through an output gate and write through two gates.

    The bank and all that is summed into it (gates, S, tanh(S)) is float32 in every compute dtype:
    in bfloat16 a forget gate above 0.998 is 1, and such a slot never forgets.
    """

    def setup(self):
        c, m = self.config, self.config.memory
        D, N = c.embed_dim, m.num_heads
        heads = dict(equation="BTD,DNH->BTNH", shape=(D, N, D // N), dtype=c.dtype,
                     axes=("embed", "heads", "head_dim"))
        gate = dict(equation="BTD,DE->BTE", shape=(D, D), dtype=c.dtype, out_dtype="float32",
                    axes=("embed", "mlp"), bias_axes=("norm",))
        self.slot_norm = RMSNorm(c.norm_eps, c.dtype)
        self.write_norm = RMSNorm(c.norm_eps, c.dtype)
        self.q_proj = Linear(**heads)
        self.k_proj = Linear(**heads, init=self._as_queries)
        self.v_proj = Linear(**heads)
        self.o_proj = Linear("BTNH,NHD->BTD", (N, D // N, D), ("heads", "head_dim", "embed"),
                             scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype)
        self.output_gate = Linear(**gate, bias=m.output_gate_bias)
        self.write_proj = Linear(**heads)
        self.input_gate = Linear(**gate, bias=0.0)
        self.forget_gate = Linear(**gate, bias=m.forget_gate_bias)

    def read(self, a_BTD: jax.Array, bank_BMD: jax.Array) -> jax.Array:
        """g * E, the gated read that is added to the stream, [B, T, D].

        A = softmax(a W_q (n W_k)^T / sqrt(H)), E = (A (n W_v)) W_o,
        g = sigmoid(E W_out + b_out), with n = norm(bank).
        """
        n_BMD = self.slot_norm(bank_BMD)
        q_BTNH, k_BMNH, v_BMNH = self.q_proj(a_BTD), self.k_proj(n_BMD), self.v_proj(n_BMD)
        affinity_BNTM = self._affinity(q_BTNH, k_BMNH)
        if self.config.memory.top_k:
            least = jax.lax.top_k(affinity_BNTM, self.config.memory.top_k)[0][..., -1:]
            affinity_BNTM = jnp.where(affinity_BNTM >= least, affinity_BNTM, MASKED)
        A_BNTM = jax.nn.softmax(affinity_BNTM, axis=-1).astype(self.config.dtype)
        E_BTD = self.o_proj(jnp.einsum("BNTM,BMNH->BTNH", A_BNTM, v_BMNH))
        g_BTD = nn.sigmoid(self.output_gate(E_BTD))
        self.sow("intermediates", "output", g_BTD)
        return (g_BTD * E_BTD.astype(jnp.float32)).astype(E_BTD.dtype)

    def write(self, x_BTD: jax.Array, bank_BMD: jax.Array, valid_BT: jax.Array) -> jax.Array:
        """The bank after the segment, i * tanh(S) + f * bank, float32 [B, M, D].

        h = norm(x), S = softmax over tokens of (n W_k)(h W_q)^T / sqrt(H), times (h W_s);
        i = sigmoid(S W_in + b_in), f = sigmoid(S W_forget + b_forget).
        Masked tokens have no part; a row without a valid token keeps its bank.
        """
        h_BTD, n_BMD = self.write_norm(x_BTD), self.slot_norm(bank_BMD)
        affinity_BNTM = self._affinity(self.q_proj(h_BTD), self.k_proj(n_BMD))
        affinity_BNTM = jnp.where(valid_BT[:, None, :, None], affinity_BNTM, MASKED)
        A_BNTM = jax.nn.softmax(affinity_BNTM, axis=2).astype(self.config.dtype)
        S_BMNH = einsum_float32("BNTM,BTNH->BMNH", A_BNTM, self.write_proj(h_BTD))
        S_BMD = S_BMNH.reshape(bank_BMD.shape)
        i_BMD, f_BMD = nn.sigmoid(self.input_gate(S_BMD)), nn.sigmoid(self.forget_gate(S_BMD))
        self.sow("intermediates", "input", i_BMD)
        self.sow("intermediates", "forget", f_BMD)
        new_BMD = i_BMD * jnp.tanh(S_BMD) + f_BMD * bank_BMD
        new_BMD = jnp.where(valid_BT.any(axis=1)[:, None, None], new_BMD, bank_BMD)
        return constrain(new_BMD, "act_batch", "memory_slots", "act_embed")

    def _as_queries(self, key, shape, dtype) -> jax.Array:
        """W_k at the start, a multiple of W_q: a token then finds the slots that hold what is
        like it from the first step on, before training has found a way to bind the two."""
        kernel = nn.unbox(self.q_proj.get_variable("params", "kernel"))
        return KEY_INIT_SCALE * kernel

    def _affinity(self, q_BTNH, k_BMNH):
        """q k^T / sqrt(H), float32 [B, N, T, M]."""
        affinity = einsum_float32("BTNH,BMNH->BNTM", q_BTNH, k_BMNH)
        return affinity * q_BTNH.shape[-1] ** -0.5


def identity_bank(num_slots: int, embed_dim: int) -> jax.Array:
    """The bank at the start of a sequence, [M, D]: row r of the identity, repeating for M > D."""
    return jnp.eye(embed_dim, dtype=jnp.float32)[jnp.arange(num_slots) % embed_dim]


def init_state(config: ModelConfig, batch_size: int) -> jax.Array:
    """Identity banks, float32 [P, B, M, D]."""
    bank_MD = identity_bank(config.memory.num_slots, config.embed_dim)
    return jnp.broadcast_to(bank_MD, (config.memory.num_layers, batch_size, *bank_MD.shape))


def flops(config: ModelConfig) -> float:
    """Forward FLOPs a token and block. Per token: q twice (read, write), o, output gate, values of
    the write; per slot: k twice, v, input and forget gate; the two affinities, their products."""
    T, D, M = config.segment_length, config.embed_dim, config.memory.num_slots
    return 2 * D * D * (5 + 5 * M / T) + 8 * D * M
