"""Gated DeltaNet (arXiv 2412.06464) beside the attention of a block.

It is a linear recurrent layer: each head has a matrix that every token decays, corrects by the
delta rule and reads. The matrix is carried from segment to segment, so the layer is the memory of a
block whose attention sees one segment.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model import kernels
from lm2_jax.model.linear import Linear, RMSNorm, partitioned
from lm2_jax.model.memory.base import BlockMemory
from lm2_jax.partition import constrain

CHUNK = 64  # the most tokens that are computed at once
CONV_WIDTH = 4
EPSILON = 1e-6
PRECISION = jax.lax.Precision.HIGHEST  # of what is carried; a TPU rounds to bfloat16 by default


class DeltaState(NamedTuple):
    """The state of one block; that of P blocks has a leading axis of size P.

    Attributes:
      matrix_BNVK: float32, S below, of N heads with values of size V and keys of size K.
      tail_BWD: float32, the normalised input of the last W = CONV_WIDTH - 1 valid tokens, which the
        convolutions of the next segment need; zeros before the first token.
    """

    matrix_BNVK: jax.Array
    tail_BWD: jax.Array


class GatedDeltaNet(BlockMemory):
    """Adds to the output of attention what N heads read. Per head and token, with a = norm(x),

        q     = unit(silu(conv(a W_q))) / sqrt(K),   k = unit(silu(conv(a W_k)))
        v     = silu(conv(a W_v))
        alpha = exp(-exp(A_log) softplus(a W_a + dt_bias)),   beta = sigmoid(a W_b)
        S    <- alpha S (I - beta k k^T) + beta v k^T
        out   = (norm(S q) * silu(a W_g)) W_o

    unit: scaled to unit length; conv: a causal convolution over the last CONV_WIDTH tokens of each
    channel. A token reads the state that it has written. Tokens that are not valid are left out of
    the sequence. S, alpha and beta are float32 in every compute dtype.
    """

    def setup(self):
        c, m = self.config, self.config.memory
        D, N, K, V = c.embed_dim, m.num_heads, m.key_dim, c.embed_dim // m.num_heads
        heads = partial(Linear, "BTD,DNH->BTNH", axes=("embed", "heads", "head_dim"),
                        dtype=c.dtype)
        gate = partial(Linear, "BTD,DN->BTN", (D, N), ("embed", "heads"), dtype=c.dtype,
                       out_dtype="float32")
        self.q_proj, self.k_proj = heads(shape=(D, N, K)), heads(shape=(D, N, K))
        self.v_proj, self.g_proj = heads(shape=(D, N, V)), heads(shape=(D, N, V))
        self.q_conv, self.k_conv, self.v_conv = Convolution(), Convolution(), Convolution()
        self.a_proj, self.b_proj = gate(), gate()
        self.A_log_N = self.param("A_log", partitioned(init_rate, ("heads",)), (N,), jnp.float32)
        self.dt_bias_N = self.param("dt_bias", partitioned(init_step, ("heads",)), (N,),
                                    jnp.float32)
        self.o_norm = RMSNorm(c.norm_eps, c.dtype)
        self.o_proj = Linear("BTNH,NHD->BTD", (N, V, D), ("heads", "head_dim", "embed"),
                             scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype)

    def mix(self, a_BTD: jax.Array, state: DeltaState, valid_BT: jax.Array
            ) -> tuple[jax.Array, DeltaState]:
        # The valid tokens are moved to the front, in order, so that convolutions meet no others.
        order_BT = jnp.argsort(~valid_BT, axis=1, stable=True)
        a_BTD = jnp.take_along_axis(a_BTD, order_BT[..., None], axis=1)
        count_B = jnp.sum(valid_BT, axis=1)
        written_BT = jnp.arange(a_BTD.shape[1])[None] < count_B[:, None]

        a_BXD = jnp.concatenate([state.tail_BWD.astype(a_BTD.dtype), a_BTD], axis=1)
        q_BTNK = _unit(self.q_conv(self.q_proj(a_BXD)))
        k_BTNK = _unit(self.k_conv(self.k_proj(a_BXD)))
        v_BTNV = self.v_conv(self.v_proj(a_BXD))
        q_BTNK = q_BTNK * q_BTNK.shape[-1] ** -0.5
        step_BTN = nn.softplus(self.a_proj(a_BTD) + self.dt_bias_N[None, None])
        log_alpha_BTN = -jnp.exp(self.A_log_N)[None, None] * step_BTN
        beta_BTN = nn.sigmoid(self.b_proj(a_BTD))
        log_alpha_BTN, beta_BTN = (jnp.where(written_BT[..., None], x, 0.0)
                                   for x in (log_alpha_BTN, beta_BTN))
        self.sow("intermediates", "open", 1 - jnp.exp(log_alpha_BTN) * (1 - beta_BTN))
        o_BTNV, matrix_BNVK = gated_delta_rule(q_BTNK, k_BTNK, v_BTNV, log_alpha_BTN, beta_BTN,
                                               state.matrix_BNVK)
        out_BTD = self.o_proj(self.o_norm(o_BTNV) * nn.silu(self.g_proj(a_BTD)))

        out_BTD = jnp.take_along_axis(out_BTD, jnp.argsort(order_BT, axis=1)[..., None], axis=1)
        last_BW = count_B[:, None] + jnp.arange(CONV_WIDTH - 1)[None]
        tail_BWD = jnp.take_along_axis(a_BXD, last_BW[..., None], axis=1).astype(jnp.float32)
        return out_BTD, DeltaState(matrix_BNVK, tail_BWD)

    step = mix


class Convolution(nn.Module):
    """silu of a causal convolution of each channel over CONV_WIDTH tokens, in float32.

    From [B, T + CONV_WIDTH - 1, N, H] to [B, T, N, H].
    """

    @nn.compact
    def __call__(self, x_BXNH: jax.Array) -> jax.Array:
        x_BXNH = constrain(x_BXNH, "act_batch", "act_len", "act_heads", "act_head_dim")
        init = nn.initializers.normal(CONV_WIDTH**-0.5)
        kernel_CNH = self.param("kernel", partitioned(init, (None, "heads", "head_dim")),
                                (CONV_WIDTH, *x_BXNH.shape[2:]), jnp.float32)
        T = x_BXNH.shape[1] - CONV_WIDTH + 1
        return nn.silu(sum(x_BXNH[:, i:i + T].astype(jnp.float32) * kernel_CNH[None, None, i]
                           for i in range(CONV_WIDTH)))


def gated_delta_rule(q_BTNK: jax.Array, k_BTNK: jax.Array, v_BTNV: jax.Array,
                     log_alpha_BTN: jax.Array, beta_BTN: jax.Array, matrix_BNVK: jax.Array
                     ) -> tuple[jax.Array, jax.Array]:
    """Returns S_t q_t of every token, [B, T, N, V], and S after the last, [B, N, V, K].

        S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T

    It is computed chunk by chunk (section 3.3 of the paper). With G_t the sum of log alpha from the
    start of the chunk up to t, the state inside a chunk that begins with S_0 is

        S_t = e^{G_t} S_0 + sum_{s <= t} e^{G_t - G_s} u_s k_s^T
        u_t = beta_t (v_t - e^{G_t} S_0 k_t - sum_{s < t} e^{G_t - G_s} (k_s . k_t) u_s)

    The u_t solve a triangular system, whose inverse is multiplied with both parts of its right-hand
    side (with v, and with k) in all chunks at once; only the products with S_0 are left for the
    scan over the chunks. All arguments and results are float32. A token with log alpha = beta = 0
    leaves S as it is, bit for bit.
    """
    T = q_BTNK.shape[1]
    num_chunks = -(-T // CHUNK)
    size = -(-T // num_chunks)

    def chunks(x):
        """[B, T, N, ...] -> [chunks, B, N, tokens, ...], padded with zeros."""
        x = jnp.pad(x, [(0, 0), (0, num_chunks * size - T)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(x.shape[0], num_chunks, size, *x.shape[2:])
        return jnp.moveaxis(x, (1, 3), (0, 2))

    q, k, v, log_alpha, beta = map(chunks, (q_BTNK, k_BTNK, v_BTNV, log_alpha_BTN, beta_BTN))
    decay = jnp.cumsum(log_alpha, axis=-1)
    causal = jnp.tril(jnp.ones((size, size), bool))
    between = jnp.exp(jnp.where(causal, decay[..., :, None] - decay[..., None, :], -jnp.inf))
    product = partial(jnp.einsum, precision=PRECISION)
    overlap = jnp.tril(beta[..., None] * between * product("...tk,...sk->...ts", k, k), -1)
    right = beta[..., None] * jnp.concatenate([v, jnp.exp(decay)[..., None] * k], axis=-1)
    u_v, u_k = jnp.split(product("...ts,...sx->...tx", triangular_inverse(overlap), right),
                         [v.shape[-1]], axis=-1)
    affinity = between * jnp.einsum("...tk,...sk->...ts", q, k)

    def chunk(S, x):
        q, k, u_v, u_k, affinity, decay = x
        u = u_v - product("BNtk,BNvk->BNtv", u_k, S)
        o = (jnp.exp(decay)[..., None] * jnp.einsum("BNtk,BNvk->BNtv", q, S)
             + jnp.einsum("BNts,BNsv->BNtv", affinity, u))
        last = decay[..., -1:]
        kept = jnp.exp(last - decay)[..., None] * k
        return jnp.exp(last)[..., None] * S + product("BNtv,BNtk->BNvk", u, kept), o

    S, o = jax.lax.scan(chunk, matrix_BNVK, (q, k, u_v, u_k, affinity, decay),
                        unroll=kernels.unroll(num_chunks))
    o_BTNV = jnp.moveaxis(o, (0, 2), (1, 3)).reshape(o.shape[1], -1, *v_BTNV.shape[2:])
    return o_BTNV[:, :T], S


@jax.custom_vjp
def triangular_inverse(A: jax.Array) -> jax.Array:
    """Returns (I + A)^-1 of strictly lower triangular matrices, [..., C, C].

    Inverses of diagonal blocks are merged to those of blocks twice as large. On a CPU the batched
    `solve_triangular` of jax 0.10.2 blocks forever where two of them run at the same time.
    """
    size, lead = A.shape[-1], A.shape[:-2]
    full = 1 << (size - 1).bit_length()
    A = jnp.pad(A, [(0, 0)] * len(lead) + [(0, full - size)] * 2)
    inverse = jnp.ones((*lead, full, 1, 1), A.dtype)  # of the diagonal blocks
    while (width := inverse.shape[-1]) < full:
        pairs = full // (2 * width)
        blocks = A.reshape(*lead, pairs, 2, width, pairs, 2, width)[..., 1, :, :, 0, :]
        below = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -_matmul(_matmul(second, below), first)
        inverse = jnp.block([[first, jnp.zeros_like(first)], [corner, second]])
    return inverse[..., 0, :size, :size]


def _inverse_forward(A):
    inverse = triangular_inverse(A)
    return inverse, inverse


def _inverse_backward(inverse, gradient):
    transposed = inverse.swapaxes(-1, -2)
    return -_matmul(_matmul(transposed, gradient), transposed),


triangular_inverse.defvjp(_inverse_forward, _inverse_backward)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=PRECISION)


def _unit(x: jax.Array) -> jax.Array:
    """Returns x scaled to unit length along its last axis."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON)


def init_rate(key, shape, dtype) -> jax.Array:
    """Initialises A_log so that exp(A_log) is uniform in (0, 16), as in the paper's code."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-4, 16.0))


def init_step(key, shape, dtype) -> jax.Array:
    """Initialises dt_bias so that softplus(dt_bias) is log-uniform in [0.001, 0.1]."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(0.001), jnp.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))


def init_state(config: ModelConfig, batch_size: int) -> DeltaState:
    """Returns the state of P blocks before the first token: zeros."""
    m, D = config.memory, config.embed_dim
    first = (m.num_layers, batch_size)
    return DeltaState(
        matrix_BNVK=jnp.zeros((*first, m.num_heads, D // m.num_heads, m.key_dim), jnp.float32),
        tail_BWD=jnp.zeros((*first, CONV_WIDTH - 1, D), jnp.float32))


def flops(config: ModelConfig) -> float:
    """Returns the forward FLOPs per token and block.

    These are the projections (those before a convolution also for the tail), in a chunk the
    overlaps of keys, the affinities, the triangular inverse and the products of both matrices with
    values and keys, and three products with the state.
    """
    T, D, N, K = config.segment_length, config.embed_dim, config.memory.num_heads, (
        config.memory.key_dim)
    V, size = D // N, -(-T // -(-T // CHUNK))
    projections = 2 * D * N * ((2 * K + V) * (T + CONV_WIDTH - 1) / T + 2 * V + 2)
    full = 1 << (size - 1).bit_length()
    chunk = 2 * size * (2 * K + V + (K + V)) + 2 * full * (full**2 - 1) / 3 / size
    return projections + N * (chunk + 3 * 2 * K * V)
