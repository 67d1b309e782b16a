"""Gated DeltaNet: chunks against one token at a time, in values and gradients; meshes; FLOPs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_rivals

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.memory import delta
from lm2_jax.model.state import init_state
from lm2_jax.report.flops import of_traced

pytestmark = pytest.mark.usefixtures("compiled_quickly")

B, N, K, V = 2, 2, 8, 4
rule = jax.jit(delta.gated_delta_rule)


def arguments(T, rate=0.1, keys="random", seed=0):
    """q, k, v, log alpha, beta and S, float32; the decay of a token is about `rate`."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, T, N, K))
    if keys == "equal":
        k[:] = k[:, :1]
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    v, S = rng.normal(size=(B, T, N, V)), rng.normal(size=(B, N, V, K))
    log_alpha = -rate * rng.exponential(size=(B, T, N))
    beta = 1 / (1 + np.exp(-3 - rng.normal(size=(B, T, N))))
    return [np.float32(x) for x in (q, k, v, log_alpha, beta, S)]


def by_token(q, k, v, log_alpha, beta, S):
    """The rule in NumPy, float64."""
    q, k, v, log_alpha, beta, S = (np.float64(x) for x in (q, k, v, log_alpha, beta, S))
    o = np.zeros_like(v)
    for row in range(len(q)):
        for t in range(q.shape[1]):
            S[row], o[row, t] = reference_rivals.delta_rule(
                S[row], q[row, t], k[row, t], v[row, t], np.exp(log_alpha[row, t]), beta[row, t])
    return o, S


@pytest.mark.parametrize("T,rate,keys", [
    (1, 0.1, "random"), (130, 0.01, "random"), (130, 5.0, "random"), (64, 1e-4, "equal")])
def test_chunks_are_the_rule_token_by_token(T, rate, keys):
    """Also where the decay of a chunk underflows, and where a key is written again and again."""
    own = arguments(T, rate, keys)
    for actual, wanted in zip(rule(*own), by_token(*own), strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-5)


def test_gradients_are_those_of_a_scan_over_tokens():
    def scanned(q, k, v, log_alpha, beta, S):
        def step(S, x):
            q, k, v, log_alpha, beta = x
            kept = jnp.exp(log_alpha)[..., None, None] * S
            error = v - jnp.einsum("BNvk,BNk->BNv", kept, k)
            S = kept + beta[..., None, None] * error[..., :, None] * k[..., None, :]
            return S, jnp.einsum("BNvk,BNk->BNv", S, q)

        S, o = jax.lax.scan(step, S, [x.swapaxes(0, 1) for x in (q, k, v, log_alpha, beta)])
        return o.swapaxes(0, 1), S

    own, weights = arguments(70), arguments(70, seed=1)

    def loss(function, *own):
        o, S = function(*own)
        return jnp.sum(o * weights[2]) + jnp.sum(S * weights[-1])

    found, wanted = (jax.jit(jax.grad(partial(loss, function), argnums=range(6)))(*own)
                     for function in (delta.gated_delta_rule, scanned))
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("size", [1, 5, 64])
def test_the_triangular_inverse(size):
    A = np.tril(np.random.default_rng(size).uniform(-1, 1, (3, size, size)), -1).astype(np.float32)
    A[0] = np.tril(np.ones((size, size)), -1)
    inverse = np.asarray(jax.jit(delta.triangular_inverse)(A))
    wanted = np.linalg.inv(np.eye(size) + np.float64(A))
    np.testing.assert_allclose(inverse, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert (np.triu(inverse, 1) == 0).all()


def test_a_key_finds_the_last_value_that_was_written_under_it():
    """With beta = 1 and no decay, however many other keys were written since."""
    k = np.eye(4, 8, dtype=np.float32)[[0, 1, 0, 2, 3, 0]]
    v = np.random.default_rng(0).normal(size=(6, V)).astype(np.float32)
    q = np.eye(4, 8, dtype=np.float32)[[0, 0, 0, 1, 0, 3]]
    o, _ = rule(*(x[None, :, None] for x in (q, k, v)), np.zeros((1, 6, 1), np.float32),
                np.ones((1, 6, 1), np.float32), np.zeros((1, 1, V, 8), np.float32))
    np.testing.assert_allclose(o[0, :, 0], v[[0, 0, 2, 1, 2, 4]], atol=1e-6)


def test_a_token_without_rate_and_decay_leaves_the_state_bit_for_bit():
    q, k, v, log_alpha, beta, S = arguments(130)
    assert np.array_equal(rule(q, k, v, 0 * log_alpha, 0 * beta, S)[1], S)


def layer_of(T, rows):
    """A config, (the layer, its parameters) and its arguments: input, state and valid."""
    config = ModelConfig(vocab_size=19, embed_dim=16, num_layers=1, segment_length=T,
                         memory=MemoryConfig(kind="delta", num_heads=N, key_dim=K, num_layers=1))
    own = jax.tree.map(lambda leaf: leaf[0], reference.params(config)["params"]["memory_blocks"])
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape[1:]).astype(np.float32),
                         init_state(config, rows).memory)
    layer = partial(delta.GatedDeltaNet(config).apply, {"params": own["memory"]}, method="mix")
    return config, layer, (rng.normal(size=(rows, T, 16)).astype(np.float32), state,
                           rng.random((rows, T)) < 0.8)


@pytest.mark.parametrize("T", [6, 96])
def test_flops_are_those_of_the_matrix_products(T):
    config, layer, own = layer_of(T, B)
    counted = of_traced(jax.jit(layer).trace(*own)) / (B * T)
    assert delta.flops(config) == pytest.approx(counted, rel=1e-12)


def test_a_mesh_changes_nothing():
    """Rows are split over two axes, heads over the third."""
    _, layer, own = layer_of(70, rows=8)
    wanted = jax.jit(layer)(*own)
    with jax.set_mesh(partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})):
        found = jax.jit(layer)(*own)
        assert len(found[0].sharding.device_set) == 8
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found, wanted)


def test_the_decay_of_a_new_model_spans_the_papers_range():
    """exp(A_log) in (0, 16) and softplus(dt_bias) in [0.001, 0.1]."""
    make = jax.jit(lambda key: (jnp.exp(delta.init_rate(key, (1000,), jnp.float32)),
                                jax.nn.softplus(delta.init_step(key, (1000,), jnp.float32))))
    rate, step = make(jax.random.key(0))
    assert 0 < rate.min() < 0.1 and 15.9 < rate.max() <= 16
    assert 0.00099 < step.min() < 0.0011 and 0.095 < step.max() < 0.101
