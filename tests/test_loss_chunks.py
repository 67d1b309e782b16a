"""The loss in chunks of tokens, whose logits are never all there, is the loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import MODEL, B, T, batch, furthest

from lm2_jax.config import Config, MemoryConfig, TrainConfig
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.training import loss as losses
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
    assert furthest(grads, wanted_grads) < 2e-6
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
        x_BTD, targets_BT = jnp.broadcast_to(x_D, (1, T, 8)), jnp.zeros((1, T), jnp.int32)
        return np.asarray(jax.jit(jax.grad(lambda m: losses._in_chunks(
            x_BTD, m, targets_BT, 1)[0].sum()))(matrix_VD), np.float64)

    assert furthest(gradient(1024), 1024 * gradient(1)) < 0.01


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
        return {size for size in (1, 2, T)
                if f"[{B},{size},41]" in text or f"[{B * size},41]" in text}

    assert T in shapes(0) and T not in shapes(1)


@pytest.mark.parametrize("chunk_tokens,message", [(3, "0 or a divisor of model.segment_length = 4"),
                                                  (-1, "at least 0")])
def test_chunks_that_do_not_divide_a_segment_are_refused(chunk_tokens, message):
    with pytest.raises(ValueError, match=f"train.loss_chunk_tokens is {chunk_tokens}.*{message}"):
        Config(model=MODEL, train=TrainConfig(loss_chunk_tokens=chunk_tokens))
