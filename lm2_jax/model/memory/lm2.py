"""The memory of a block (LM2, arXiv 2502.06049, sections 2.1 and 2.2).

The paper's formulas fit together only when a segment has as many tokens as the bank has slots.
Here the write is a cross-attention with slots as queries and tokens as keys (S below), so that
E_mem has a row for each slot, whatever T and M are. It is tied to the read: both use the same
affinities of tokens and slots, the read with a softmax over slots, the write with a softmax over
tokens.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.config.model import ROUTED_WRITES
from lm2_jax.model import kernels
from lm2_jax.model.kernels import MASKED, Mask
from lm2_jax.model.linear import Linear, RMSNorm, partitioned
from lm2_jax.model.memory.base import BlockMemory
from lm2_jax.partition import constrain

KEY_INIT_SCALE = 2.0  # W_k is initialised to this multiple of W_q
SLOT_KEY_STD = 1.0  # of the learnt keys' entries; those of n W_k are about KEY_INIT_SCALE at first


class LM2Memory(BlockMemory):
    """A bank of M slots, [B, M, D], read through an output gate, written through two gates.

    The update of the bank, S and the input and forget gates are float32 in every compute dtype: in
    bfloat16 a forget gate above 0.998 rounds to 1, so that the slot never forgets. Between segments
    the bank has the dtype `memory.bank_dtype`; its channels are split over the devices that split
    heads, as S is, and are gathered where they are read, in the compute dtype.
    """

    def setup(self):
        c, m = self.config, self.config.memory
        D, N = c.embed_dim, m.num_heads
        heads = partial(Linear, "BTD,DNH->BTNH", (D, N, D // N), ("embed", "heads", "head_dim"),
                        dtype=c.dtype)
        gate = partial(Linear, "BTD,DE->BTE", (D, D), ("embed", "mlp"), bias_axes=("norm",),
                       dtype=c.dtype, out_dtype="float32")
        self.slot_norm = RMSNorm(c.norm_eps, c.dtype)
        self.write_norm = RMSNorm(c.norm_eps, c.dtype)
        self.q_proj = heads()
        self.k_proj = heads(kernel_init=partial(self._init_keys, "q_proj"))
        self.v_proj = heads()
        self.o_proj = Linear("BTNH,NHD->BTD", (N, D // N, D), ("heads", "head_dim", "embed"),
                             scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype)
        self.output_gate = gate(bias_init=m.output_gate_bias)
        self.write_proj = heads()
        if not m.tied_addressing:
            self.write_q_proj = heads()
            self.write_k_proj = heads(kernel_init=partial(self._init_keys, "write_q_proj"))
        if not m.coupled_gates:
            self.input_gate = gate(bias_init=0.0)
        assert m.forget_gate_bias is not None  # the config sets it
        self.forget_gate = gate(bias_init=m.forget_gate_bias)
        if m.slot_keys:
            self.slot_keys_MNH = self.param(
                "slot_keys", partitioned(nn.initializers.normal(SLOT_KEY_STD),
                                         ("memory_slots", "heads", "head_dim")),
                (m.num_slots, N, D // N), jnp.float32)
        if m.gates_see_slot:
            see_slot = partial(Linear, "BMD,DE->BME", (D, D), ("embed", "mlp"), dtype=c.dtype,
                               out_dtype="float32")
            self.input_gate_of_slot, self.forget_gate_of_slot = see_slot(), see_slot()
        if m.write in ROUTED_WRITES:
            self.route_bias_N = self.param("route_bias", partitioned(nn.initializers.zeros,
                                                                     ("heads",)), (N,), jnp.float32)

    def prepare(self, bank_BMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns n W_k and n W_v of `read`, [B, M, N, H] each."""
        n_BMD = self._normalised(bank_BMD)
        if self.is_initializing():
            self.q_proj(n_BMD)  # W_k is initialised from W_q, which must be there first
        return self.k_proj(n_BMD), self.v_proj(n_BMD)

    @nn.nowrap
    def mix(self, a_BTD: jax.Array, bank_BMD: jax.Array, valid_BT: jax.Array
            ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns what `read` does, and for `write` the bank and n W_k, which both need."""
        k_BMNH, v_BMNH = self.prepare(bank_BMD)
        return self.read(a_BTD, (k_BMNH, v_BMNH)), (bank_BMD, k_BMNH)

    def read(self, a_BTD: jax.Array, prepared: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Returns the gated read g * E, [B, T, D] in the compute dtype.

        With n = norm(bank),

            A = softmax(a W_q (n W_k)^T / sqrt(H))     over slots, or the top_k slots
            E = (A (n W_v)) W_o
            g = sigmoid(E W_out + b_out)

        With slot_keys, n W_k + w takes the place of n W_k, here and in the write; w is learnt for
        each slot and head. With top_k no kernel is used: all affinities are held at once, as by
        model.attention_implementation=xla.
        """
        c, (k_BMNH, v_BMNH) = self.config, prepared
        q_BTNH, k_BMNH = self.q_proj(a_BTD), self._keys(k_BMNH)
        if c.memory.top_k:
            affinity_BNTM = kernels.affinities(q_BTNH, k_BMNH, Mask())
            threshold = jax.lax.top_k(affinity_BNTM, c.memory.top_k)[0][..., -1:]
            affinity_BNTM = jnp.where(affinity_BNTM >= threshold, affinity_BNTM, MASKED)
            out_BTNH = kernels.weighted(affinity_BNTM, v_BMNH, q_BTNH.dtype, c.dtype)
            self._sow_attention("read_attention", lambda: jax.nn.softmax(affinity_BNTM, axis=-1))
        else:
            out_BTNH = kernels.attention(q_BTNH, k_BMNH, v_BMNH, Mask(),
                                         c.attention_implementation)
            self._sow_attention("read_attention",
                                lambda: kernels.weights(q_BTNH, k_BMNH, Mask()))
        E_BTD = self.o_proj(out_BTNH)
        g_BTD = nn.sigmoid(self.output_gate(E_BTD))
        self.sow("intermediates", "output", g_BTD)
        return (g_BTD * E_BTD.astype(jnp.float32)).astype(E_BTD.dtype)

    def write(self, x_BTD: jax.Array, state: tuple[jax.Array, jax.Array], valid_BT: jax.Array
              ) -> jax.Array:
        """Returns the next bank, [B, M, D] in its dtype, computed in float32.

            paper, open     i * tanh(S) + f * bank
            null, routed    u * (i * tanh(S) + f * bank) + (1 - u) * bank

        With h = norm(x) and n = norm(bank),

            S = softmax((n W_k) (h W_q)^T / sqrt(H)) (h W_s)     over the valid tokens
            f = sigmoid(S W_forget + n W_slot + b_forget)        n W_slot only if gates_see_slot
            i = 1 - f                                            coupled_gates
            i = sigmoid(S W_in + n W_in_slot + b_in)             otherwise

        and u as `_route` returns it. Without tied_addressing the write has its own W_q and W_k. The
        paper's gates are neither coupled nor do they see the slot. The bank of a row without a
        valid token is returned unchanged.

        Args:
          state: the bank and n W_k with the read's W_k, as `mix` returned them.
        """
        m, (bank_BMD, k_BMNH) = self.config.memory, state
        h_BTD, n_BMD = self.write_norm(x_BTD), self._normalised(bank_BMD)
        if m.tied_addressing:
            q_BTNH = self.q_proj(h_BTD)
        else:
            q_BTNH, k_BMNH = self.write_q_proj(h_BTD), self.write_k_proj(n_BMD)
        # Slots take the place of queries, tokens that of keys.
        k_BMNH, mask = self._keys(k_BMNH), Mask(valid_BT)
        S_BMNH, log_sum_BNM = kernels.attention(
            k_BMNH, q_BTNH, self.write_proj(h_BTD), mask, self.config.attention_implementation,
            out_dtype="float32", log_sum_exp=True)
        self._sow_attention("write_attention", lambda: kernels.weights(
            k_BMNH, q_BTNH, mask).swapaxes(2, 3))
        S_BMD, dtype = S_BMNH.reshape(bank_BMD.shape), bank_BMD.dtype
        bank_BMD = bank_BMD.astype(jnp.float32)
        f_BMD = self._gate("forget_gate", S_BMD, n_BMD)
        i_BMD = 1 - f_BMD if m.coupled_gates else self._gate("input_gate", S_BMD, n_BMD)
        self.sow("intermediates", "input", i_BMD)
        self.sow("intermediates", "forget", f_BMD)
        new_BMD = i_BMD * jnp.tanh(S_BMD) + f_BMD * bank_BMD
        if m.write in ROUTED_WRITES:
            u_BMD = self._route(log_sum_BNM, valid_BT)
            new_BMD = u_BMD * new_BMD + (1 - u_BMD) * bank_BMD
        new_BMD = jnp.where(valid_BT.any(axis=1)[:, None, None], new_BMD, bank_BMD)
        return constrain(new_BMD.astype(dtype), "act_batch", "memory_slots", "act_memory")

    def _normalised(self, bank_BMD: jax.Array) -> jax.Array:
        """Returns norm(bank), [B, M, D] in the compute dtype, whole on every device of a row."""
        return constrain(self.slot_norm(bank_BMD), "act_batch", "memory_slots", "act_embed")

    def _gate(self, name: str, S_BMD: jax.Array, n_BMD: jax.Array) -> jax.Array:
        """Returns a gate of each slot and dimension, float32 [B, M, D]."""
        logit_BMD = getattr(self, name)(S_BMD)
        if self.config.memory.gates_see_slot:
            logit_BMD += getattr(self, f"{name}_of_slot")(n_BMD)
        return nn.sigmoid(logit_BMD)

    def _route(self, log_sum_BNM: jax.Array, valid_BT: jax.Array) -> jax.Array:
        """Returns u, how far each slot is open to the segment, float32 [B, M, D] in [0, 1].

        `log_sum_BNM` is the log-sum-exp of the affinities over the valid tokens. For each slot and
        head (u is the same for all dimensions of a head),

            rho = logmeanexp of the affinity over the valid tokens - b
            u   = sigmoid(rho)                               null
            u   = clip(1.2 sigmoid(rho) - 0.1, 0, 1)         routed

        null is the share that the tokens get of a softmax with one more token, whose affinity is b
        plus the log of their number. routed is exactly 0 below rho = -2.4, where no token matches
        the slot, and exactly 1 above 2.4. So any number of segments can leave a slot bit for bit as
        it is, which no sigmoid allows. With write_top_k, u is 0 where rho is below the k-th
        largest.
        """
        m = self.config.memory
        num_valid_B = jnp.maximum(jnp.sum(valid_BT, axis=1), 1).astype(jnp.float32)
        log_mean_BNM = log_sum_BNM - jnp.log(num_valid_B)[:, None, None]
        rho_BNM = log_mean_BNM - self.route_bias_N[None, :, None]
        u_BNM = nn.sigmoid(rho_BNM)
        if m.write == "routed":
            u_BNM = jnp.clip(1.2 * u_BNM - 0.1, 0.0, 1.0)
        if m.write_top_k:
            threshold = jax.lax.top_k(rho_BNM, m.write_top_k)[0][..., -1:]
            u_BNM = jnp.where(rho_BNM >= threshold, u_BNM, 0.0)
        u_BNM = jnp.where(valid_BT.any(axis=1)[:, None, None], u_BNM, 0.0)
        self.sow("intermediates", "open", u_BNM)
        head_dim = self.config.embed_dim // m.num_heads
        return jnp.repeat(u_BNM.swapaxes(1, 2), head_dim, axis=2)

    def _init_keys(self, queries: str, key, shape, dtype) -> jax.Array:
        """Initialises W_k to a multiple of W_q (the layer `queries`), so that from the first step
        on a token attends to slots whose content resembles it."""
        kernel = nn.unbox(getattr(self, queries).get_variable("params", "kernel"))
        return KEY_INIT_SCALE * kernel

    def _keys(self, k_BMNH: jax.Array) -> jax.Array:
        """Returns the keys of the slots, with the learnt ones added to those of their content."""
        if self.config.memory.slot_keys:
            k_BMNH = k_BMNH + self.slot_keys_MNH.astype(k_BMNH.dtype)[None]
        return k_BMNH

    def _sow_attention(self, name: str, weights: Callable[[], jax.Array]) -> None:
        """Sows attention weights [B, N, T, M], computed only where the caller asks for them."""
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", name, weights())


def identity_bank(num_slots: int, embed_dim: int) -> jax.Array:
    """Returns the initial bank, float32 [M, D]: slot r is row r mod D of the identity matrix."""
    return jnp.eye(embed_dim, dtype=jnp.float32)[jnp.arange(num_slots) % embed_dim]


def init_state(config: ModelConfig, batch_size: int) -> jax.Array:
    """Returns the initial banks of P blocks, [P, B, M, D] in the dtype `memory.bank_dtype`."""
    m = config.memory
    bank_MD = identity_bank(m.num_slots, config.embed_dim).astype(m.bank_dtype)
    return jnp.broadcast_to(bank_MD, (config.memory.num_layers, batch_size, *bank_MD.shape))


def flops(config: ModelConfig) -> float:
    """Returns the forward FLOPs per token and block.

    Per token these are q (for read and write), o, the output gate and the write's values; per slot
    k (one for read and write if tied_addressing), v, the gates, and what they see of the slot; per
    pair of token and slot the two affinities and the products with their values. Sums over the
    affinities, such as softmax and u, are not counted, as in attention.
    """
    m = config.memory
    T, D, M = config.segment_length, config.embed_dim, m.num_slots
    num_gates = 1 if m.coupled_gates else 2
    num_keys = 1 if m.tied_addressing else 2
    per_slot = num_keys + 1 + num_gates * (1 + m.gates_see_slot)
    return 2 * D * D * (5 + per_slot * M / T) + 8 * D * M
