"""The loss in chunks of tokens, whose logits are never all there, is the loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import MODEL, B, T, batch, furthest

from lm2_jax.config import Config, MemoryConfig, TrainConfig
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
from lm2_jax.training import cross_entropy as cross_entropies
from lm2_jax.training.cross_entropy import cross_entropy
from lm2_jax.training.loss import loss_sums

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MODELS = {"lm2": MODEL, "untied": dataclasses.replace(MODEL, tie_embeddings=False),
          "rmt": dataclasses.replace(MODEL, memory=MemoryConfig(kind="rmt", num_slots=3,
                                                                num_layers=1))}


@functools.cache
def variables(name):
    model = MODELS[name]
    init = jax.jit(lambda: LanguageModel(model).init(
        jax.random.key(1), jnp.zeros((1, 1), jnp.int32), init_state(model, 1)))
    return nn.unbox(init())


@functools.cache
def sums_and_grads(name, chunk_tokens, remat_segments):
    def loss(params):
        sums = loss_sums(LanguageModel(MODELS[name]), params, batch(0), jax.random.key(3),
                         bptt_segments=0, remat_segments=remat_segments,
                         chunk_tokens=chunk_tokens)
        return sums.loss, sums

    grads, sums = jax.jit(jax.grad(loss, has_aux=True))(variables(name))
    return sums, grads


@pytest.mark.parametrize("name,chunk_tokens,remat_segments", [
    ("lm2", 2, True), pytest.param("untied", 2, False, marks=pytest.mark.slow)])
def test_chunks_give_the_same_loss_and_gradient(name, chunk_tokens, remat_segments):
    sums, grads = sums_and_grads(name, chunk_tokens, remat_segments)
    wanted, wanted_grads = sums_and_grads(name, 0, False)
    assert furthest(grads, wanted_grads) < 4e-6
    assert furthest(sums, wanted) < 1e-6
    for field in ("weight", "hits", "answers", "tokens"):
        assert getattr(sums, field) == getattr(wanted, field)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_unembedded_are_the_logits(name):
    config, rows = MODELS[name], batch(0)
    model, state = LanguageModel(config), init_state(config, B)
    tokens_BT, valid_BT = rows.tokens_BL[:, :T], rows.valid_BL[:, :T]
    params = variables(name)

    @functools.partial(jax.jit, static_argnums=0)
    def read(logits):
        return model.apply(params, tokens_BT, state, valid_BT, logits=logits)

    whole, out = read(True), read(False)
    assert out.logits is None and whole.hidden is None
    assert out.hidden.shape == (B, T, config.embed_dim)
    logits = unembed(out.hidden, unembedding(config, params))
    np.testing.assert_allclose(logits, whole.logits, rtol=0, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, out.state, whole.state)


def test_the_matrixs_gradient_is_summed_over_the_chunks_in_float32():
    """Of 1,024 equal chunks; summed in bfloat16 it stops growing after 256 of them."""
    rng = np.random.default_rng(0)
    matrix_VD, x_D = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((11, 8), 8))

    def gradient(T):
        x_SBTD, zeros_SBT = jnp.broadcast_to(x_D, (1, 1, T, 8)), jnp.zeros((1, 1, T), jnp.int32)
        return np.asarray(jax.jit(jax.grad(lambda m: cross_entropy(
            x_SBTD, m, zeros_SBT, jnp.ones((1, 1, T)), 1)[0]))(matrix_VD), np.float64)

    assert furthest(gradient(1024), 1024 * gradient(1)) < 0.01


@pytest.mark.parametrize("chunk_tokens,most", [(2, 0), (4, 0), (0, 0), (0, 1000)])
def test_the_cross_entropy_is_that_of_optax(monkeypatch, chunk_tokens, most):
    monkeypatch.setattr(cross_entropies, "LOGITS", most)
    rng, (S, B, T, D, V) = np.random.default_rng(1), (3, 2, 4, 5, 7)
    hidden_SBTD, matrix_VD = (jnp.asarray(rng.normal(size=size), jnp.float32)
                              for size in ((S, B, T, D), (V, D)))
    targets_SBT = rng.integers(V, size=(S, B, T))
    weight_SBT = jnp.asarray(rng.integers(3, size=(S, B, T)), jnp.float32)

    def wanted(hidden_SBTD, matrix_VD):
        logits = jnp.einsum("SBTD,VD->SBTV", hidden_SBTD, matrix_VD)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets_SBT) * weight_SBT
        return 3 * loss.sum(), (loss.sum((0, 2)), 1.0 * (logits.argmax(-1) == targets_SBT))

    def found(hidden_SBTD, matrix_VD):
        loss, losses = cross_entropy(hidden_SBTD, matrix_VD, targets_SBT, weight_SBT, chunk_tokens)
        return 3 * loss, (losses.row_B, 1.0 * losses.right_SBT)

    value = jax.value_and_grad(found, (0, 1), has_aux=True)(hidden_SBTD, matrix_VD)
    assert furthest(value, jax.value_and_grad(wanted, (0, 1), has_aux=True)(
        hidden_SBTD, matrix_VD)) < 1e-5
    assert furthest(found(hidden_SBTD, matrix_VD), value[0]) < 1e-5  # without a gradient
    program = str(jax.make_jaxpr(jax.grad(lambda *args: found(*args)[0], (0, 1)))(
        hidden_SBTD, matrix_VD))
    assert program.count("dot_general") == 3  # the logits once, and two gradients


def test_no_array_has_the_logits_of_a_segment():
    """Neither forward nor backward; V is no other size of the model."""
    config = dataclasses.replace(MODEL, vocab_size=41)
    model = LanguageModel(config)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32),
                            init_state(config, 1))

    def shapes(chunk_tokens):
        def loss(params):
            return loss_sums(model, params, batch(0), jax.random.key(3),
                             bptt_segments=0, remat_segments=True,
                             chunk_tokens=chunk_tokens).loss

        text = jax.jit(jax.grad(loss)).lower(nn.unbox(params)).compile().as_text()
        return {size for size in (1, 2, T, batch(0).tokens_BL.shape[1])
                if f"[{B},{size},41]" in text or f"[{B * size},41]" in text}

    assert max(shapes(0)) >= T > max(shapes(1))


@pytest.mark.parametrize("chunk_tokens,message", [(3, "0 or a divisor of model.segment_length = 4"),
                                                  (-1, "at least 0")])
def test_chunks_that_do_not_divide_a_segment_are_refused(chunk_tokens, message):
    with pytest.raises(ValueError, match=f"train.loss_chunk_tokens is {chunk_tokens}.*{message}"):
        Config(model=MODEL, train=TrainConfig(loss_chunk_tokens=chunk_tokens))
