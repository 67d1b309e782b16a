"""Computing in bfloat16: gates, states over many segments, and sums of gradients keep float32."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.embedding import lookup
from lm2_jax.model.linear import Linear
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state

V, B, T, BIAS = 64, 2, 6, 6.0


def make_config(kind, num_slots=8, dtype="bfloat16"):
    memory = MemoryConfig(kind=kind, num_slots=num_slots, num_heads=2, num_layers=2, key_dim=16,
                          forget_gate_bias=BIAS, write="paper")
    return ModelConfig(vocab_size=V, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2,
                       mlp_dim=48, segment_length=T, dtype=dtype, memory=memory)


@cache
def variables(config):
    """Random parameters; forget gates near those of a new model with this bias."""
    own = reference.params(config)
    memory = own["params"].get("memory_blocks", {}).get("memory", {})
    if "forget_gate" in memory:
        gate = memory["forget_gate"]
        memory["forget_gate"] = {"kernel": 0.3 * gate["kernel"],
                                 "bias": jnp.full_like(gate["bias"], BIAS)}
    if "v_proj" in memory and "write_gate" in memory:  # armt: what is read back must not grow
        memory["v_proj"] = {"kernel": 0.1 * memory["v_proj"]["kernel"]}
    if "A_log" in memory:  # delta: it forgets so slowly that bfloat16 would round alpha to 1
        memory["A_log"] = jnp.full_like(memory["A_log"], -7.0)
    return own


def test_forget_gates_are_not_rounded_to_bfloat16():
    """At bias 6, sigmoid in bfloat16 has a handful of values, 1.0 above all."""
    config = make_config("lm2")
    tokens_BT = np.random.default_rng(0).integers(0, V, (B, T), dtype=np.int32)
    _, sown = jax.jit(partial(LanguageModel(config).apply, mutable="intermediates"))(
        variables(config), tokens_BT, init_state(config, B))
    gates = sown["intermediates"]["memory_blocks"]["memory"]
    forget = np.asarray(gates["forget"][0])
    assert all(gates[name][0].dtype == jnp.float32 for name in ("output", "input", "forget"))
    assert len(np.unique(forget)) > 0.9 * forget.size
    assert (forget < 1).all() and forget.mean() == pytest.approx(0.9975, abs=5e-4)


@cache
def last_memory(kind, num_slots, dtype):
    """The compiled function of tokens [S, B, T]."""
    config = make_config(kind, num_slots, dtype)
    params = variables(make_config(kind, num_slots, "float32"))

    def step(state, tokens_BT):
        return LanguageModel(config).apply(params, tokens_BT, state, logits=False).state, None

    return jax.jit(lambda tokens: jax.lax.scan(step, init_state(config, B), tokens)[0].memory)


@pytest.mark.parametrize("kind,num_slots,tolerance", [("lm2", 8, 0.06), ("armt", 2, 0.15),
                                                      ("delta", 1, 0.03)])
@pytest.mark.parametrize("repeat", [False, True], ids=["other tokens", "the same tokens"])
def test_a_thousand_segments_stay_near_those_in_float32(kind, num_slots, tolerance, repeat):
    """Not for rmt, which sums nothing up: its tokens are computed anew by every segment."""
    tokens_SBT = np.random.default_rng(0).integers(0, V, (1000, B, T), dtype=np.int32)
    if repeat:
        tokens_SBT = np.broadcast_to(tokens_SBT[:1], tokens_SBT.shape)
    for half, wanted in zip(*(jax.tree.leaves(last_memory(kind, num_slots, dtype)(tokens_SBT))
                              for dtype in ("bfloat16", "float32")), strict=True):
        assert half.dtype == wanted.dtype
        wanted = np.asarray(wanted, np.float64)
        assert np.linalg.norm(half - wanted) < tolerance * np.linalg.norm(wanted)


def test_associations_are_not_rounded_when_they_are_carried():
    """With a closed write gate, ARMT's matrix stays bit for bit what it was, in bfloat16 too."""
    config = make_config("armt", 2)
    params = jax.tree.map(jnp.asarray, variables(dataclasses.replace(config, dtype="float32")))
    gate = params["params"]["memory_blocks"]["memory"]["write_gate"]
    gate["kernel"], gate["bias"] = 0 * gate["kernel"], 0 * gate["bias"] - 60.0
    state = init_state(config, B)
    matrix = np.random.default_rng(0).standard_normal(state.memory.matrix_BED.shape, np.float32)
    state = dataclasses.replace(state, memory=state.memory._replace(matrix_BED=matrix))
    tokens_BT = np.random.default_rng(1).integers(0, V, (B, T), dtype=np.int32)
    after = LanguageModel(config).apply(params, tokens_BT, state).state.memory
    np.testing.assert_array_equal(after.matrix_BED, matrix)


def test_a_gates_bias_is_added_in_float32_and_its_gradient_summed_so():
    """In bfloat16 a bias of 6 takes steps of 1/32, and a sum of equal numbers stops at 256."""
    gate = Linear("BTD,DE->BTE", (4, 3), ("embed", "mlp"), bias_axes=("norm",),
                  dtype="bfloat16", out_dtype="float32")
    x_BTD = jnp.zeros((5, 1000, 4))
    params = {"params": {"kernel": jnp.zeros((4, 3)), "bias": jnp.full((3,), 6.01)}}
    np.testing.assert_allclose(gate.apply(params, x_BTD), 6.01, rtol=1e-6)
    grads = jax.jit(jax.grad(lambda p: gate.apply(p, x_BTD).sum()))(params)
    np.testing.assert_allclose(jax.tree.leaves(grads)[0], 5000.0, rtol=1e-6)


@pytest.mark.parametrize("skewed", [True, False], ids=["Zipf", "all equal"])
def test_the_embeddings_gradient_is_summed_in_float32(skewed):
    """Against float64; summed in bfloat16 it stops growing after 256 equal tokens."""
    rng = np.random.default_rng(0)
    tokens_BT = (rng.zipf(1.3, (16, 1024)) % V if skewed else np.full((16, 1024), 3)).astype(
        np.int32)
    params_VD = jnp.zeros((V, 8))
    gradient_BTD = jnp.asarray(1 + 0.1 * rng.normal(size=(*tokens_BT.shape, 8)), jnp.bfloat16)
    _, vjp = jax.vjp(lambda p: lookup(p, p.astype(jnp.bfloat16), tokens_BT), params_VD)
    wanted_VD = np.zeros(params_VD.shape)
    np.add.at(wanted_VD, tokens_BT, np.asarray(gradient_BTD, np.float64))
    np.testing.assert_allclose(vjp(gradient_BTD)[0], wanted_VD, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)],
                         ids=["tied", "untied"])
def test_many_equal_rows_have_the_gradient_of_one_times_their_number(tied):
    config = dataclasses.replace(make_config("lm2"), tie_embeddings=tied)
    own = reference.params(config)
    tokens_BT = np.arange(1, T + 1, dtype=np.int32)[None]

    @jax.jit
    def gradient(tokens_BT):
        def loss(params):
            state = init_state(config, len(tokens_BT))
            return jnp.sum(LanguageModel(config).apply(params, tokens_BT, state).logits[..., 0])

        return jax.grad(loss)(own)["params"]["embedding"][1:T + 1]

    one, many = gradient(tokens_BT), gradient(np.repeat(tokens_BT, 1024, axis=0))
    np.testing.assert_allclose(many / 1024, one, atol=0.02 * np.abs(one).max())
