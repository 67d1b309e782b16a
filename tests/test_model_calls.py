"""The model from Python: compiled once for equal shapes, inside other transformations, dropout."""

import dataclasses
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import init, init_params
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

B, L = 2, 10
CONFIG = ModelConfig(vocab_size=19, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                     mlp_dim=24, segment_length=4,
                     memory=MemoryConfig(num_slots=3, num_heads=2, num_layers=1))
MODEL = LanguageModel(CONFIG)
TOKENS = np.random.default_rng(0).integers(0, 19, (B, L), dtype=np.int32)
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(event) if "backend_compile" in event else None)


@contextmanager
def nothing_compiles():
    before = len(compilations)
    yield
    assert len(compilations) == before


@pytest.fixture(scope="module")
def variables():
    return reference.params(CONFIG)


CALLS = {
    "apply": lambda model, variables, tokens: model.apply(
        variables, tokens[:, :4], init_state(CONFIG, B)).logits,
    "apply_segments": lambda model, variables, tokens: apply_segments(
        model, variables, tokens, init_state(CONFIG, B)).logits,
    "gradient": lambda model, variables, tokens: jax.grad(lambda v: jnp.sum(apply_segments(
        model, v, tokens, init_state(CONFIG, B)).logits))(variables),
    "init": lambda model, variables, tokens: init(CONFIG, jax.random.key(1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_with_equal_shapes_compiles_nothing(name, variables):
    """Nor does a new model of the same config."""
    before = len(compilations)
    CALLS[name](MODEL, variables, TOKENS)
    assert len(compilations) > before
    with nothing_compiles():
        again = CALLS[name](LanguageModel(dataclasses.replace(CONFIG)), variables, TOKENS + 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again))


def test_apply_is_flaxs():
    """With options of flax, and where jit is off."""
    own, tokens = reference.params(CONFIG), TOKENS[:, :4]
    state = init_state(CONFIG, B)
    wanted = MODEL.apply(own, tokens, state)
    out, sown = MODEL.apply(own, tokens, state, mutable="intermediates")
    np.testing.assert_allclose(out.logits, wanted.logits, atol=1e-6)
    assert "memory_blocks" in sown["intermediates"]
    named = MODEL.apply(own, tokens_BT=tokens, state=state)
    assert np.array_equal(named.logits, wanted.logits)
    hidden = MODEL.apply(own, tokens, state, logits=False)
    assert hidden.logits is None and hidden.hidden.shape == (B, 4, 16)
    positional = MODEL.apply(own, tokens, state, None, None, True, False)
    np.testing.assert_allclose(positional.hidden, hidden.hidden, atol=1e-6)


def test_apply_segments_inside_jit_vmap_and_grad(variables):
    run = partial(apply_segments, MODEL)
    state = init_state(CONFIG, B)
    wanted = run(variables, TOKENS, state).logits
    np.testing.assert_allclose(jax.jit(run)(variables, TOKENS, state).logits, wanted, atol=1e-6)
    batched = jax.vmap(lambda tokens_L: run(variables, tokens_L[None], init_state(CONFIG, 1)))
    np.testing.assert_allclose(np.asarray(batched(TOKENS).logits)[:, 0], wanted, atol=2e-6)

    def loss(variables, scale):
        return jnp.mean(jnp.square(scale * run(variables, TOKENS, state).logits))

    value, slope = jax.value_and_grad(loss, argnums=1)(variables, 1.0)
    assert float(slope) == pytest.approx(2 * float(value), rel=1e-5)


def test_dropout_follows_its_key_and_the_segment(variables):
    model = LanguageModel(dataclasses.replace(CONFIG, dropout=0.5))
    tokens = np.tile(TOKENS[:, :4], (1, 2))
    reset_BS = np.ones((B, 2), bool)

    def logits(seed=None):
        options = {} if seed is None else dict(
            deterministic=False, rngs={"dropout": jax.random.key(seed)})
        return np.asarray(apply_segments(model, variables, tokens, init_state(CONFIG, B),
                                         reset_BS=reset_BS, **options).logits)

    plain = logits()
    np.testing.assert_allclose(plain[:, :4], plain[:, 4:], atol=1e-6)
    assert np.array_equal(logits(1), logits(1))
    for other in (plain, logits(2)):
        assert np.abs(logits(1) - other).max() > 0.01
    assert np.abs(logits(1)[:, :4] - logits(1)[:, 4:]).max() > 0.01


def test_hidden_states_of_a_sequence_unembedded_are_its_logits(variables):
    state = init_state(CONFIG, B)
    whole, out = (apply_segments(MODEL, variables, TOKENS, state, logits=logits)
                  for logits in (True, False))
    assert out.logits is None and out.hidden.shape == (B, L, 16)
    np.testing.assert_allclose(unembed(out.hidden, unembedding(CONFIG, variables)), whole.logits,
                               atol=1e-6)


def test_init_makes_plain_arrays():
    made = init(CONFIG, jax.random.key(3))
    boxed = jax.jit(init_params, static_argnums=0)(MODEL, jax.random.key(3))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32
               for leaf in jax.tree.leaves(made))
    unboxed = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    assert jax.tree.structure(made) == jax.tree.structure(unboxed)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), made, unboxed)
    assert np.isfinite(MODEL.apply(made, TOKENS[:, :4], init_state(CONFIG, B)).logits).all()
