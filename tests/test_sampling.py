"""How the next token is chosen, against NumPy in the order of operations of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.errors import UserError
from lm2_jax.generation.sampling import Sampling, filtered, penalized, sample

pytestmark = pytest.mark.usefixtures("compiled_quickly")

V = 12
VALUES = st.builds(
    Sampling, temperature=st.sampled_from([0.3, 1.0, 1.7]), top_k=st.sampled_from([0, 1, 3, 99]),
    top_p=st.sampled_from([0.05, 0.6, 0.9, 1.0]), min_p=st.sampled_from([0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.4]))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(logits, s, seen):
    """The logits of one row after each operation of transformers, in its order."""
    x = logits.astype(np.float64)
    for i in np.flatnonzero(seen):
        x[i] = x[i] / s.repetition_penalty if x[i] > 0 else x[i] * s.repetition_penalty
    x = x / s.temperature
    if s.top_k:
        x[x < np.sort(x)[-min(s.top_k, V)]] = -np.inf
    order, total = np.argsort(-x), 0.0
    for i in order:
        p = softmax(x)[i]
        if total >= s.top_p:
            order = order[:list(order).index(i)]
            break
        total += p
    x[~np.isin(np.arange(V), order)] = -np.inf
    x[softmax(x) < s.min_p * softmax(x).max()] = -np.inf
    return x


@settings(max_examples=60)
@given(VALUES, st.integers(0, 1000))
def test_logits_are_those_of_the_reference(s, seed):
    rng = np.random.default_rng(seed)
    logits, seen = rng.normal(0, 2, (2, V)).astype(np.float32), rng.random((2, V)) < 0.4
    # Jitted over all settings at once it would be compiled for each.
    found = filtered(penalized(jnp.array(logits), jnp.array(seen), s.repetition_penalty), s)
    for b in range(2):
        np.testing.assert_allclose(found[b], reference(logits[b], s, seen[b]), rtol=1e-5)


def test_ties_with_the_last_token_that_is_kept_are_kept():
    logits = jnp.log(jnp.array([[0.2, 0.4, 0.2, 0.2]]))
    for s in (Sampling(temperature=1, top_k=2), Sampling(temperature=1, top_p=0.5)):
        assert np.isfinite(filtered(logits, s)).all()


def test_tokens_are_drawn_as_often_as_they_are_likely():
    B, s = 4000, Sampling(temperature=1.0, top_k=3)
    logits = np.log(np.array([0.5, 0.05, 0.3, 0.15], np.float32))
    drawn = np.asarray(sample(jnp.tile(logits, (B, 1)), s, jnp.arange(B, dtype=jnp.uint32),
                              jnp.zeros(B, jnp.int32)))
    shares = np.bincount(drawn, minlength=4) / B
    np.testing.assert_allclose(shares, np.array([0.5, 0, 0.3, 0.15]) / 0.95, atol=0.03)
    assert drawn.dtype == np.int32


def test_a_row_depends_on_its_own_seed_and_index_alone():
    """Rows 0 to 63 have index 0 to 63 and seed 0, rows 64 to 127 the same indices and seed 1."""
    s = Sampling(temperature=1.5, repetition_penalty=1.2)
    flat, seeds = np.zeros((128, V), np.float32), np.repeat(np.arange(2, dtype=np.uint32), 64)
    indices = np.tile(np.arange(64, dtype=np.int32), 2)
    drawn = np.asarray(sample(flat, s, seeds, indices, flat > 0))
    assert len(set(drawn[:64])) > 6 and (drawn[:64] != drawn[64:]).sum() > 40
    for b in (3, 100):
        row = slice(b, b + 1)
        assert sample(flat[row], s, seeds[row], indices[row], flat[row] > 0)[0] == drawn[b]


def test_temperature_0_takes_the_most_likely_token():
    logits = jnp.array([[0.0, 3.0, 2.9], [5.0, 1.0, 4.0]])
    zeros = jnp.zeros(2, jnp.int32)
    assert sample(logits, Sampling(), zeros.astype(jnp.uint32), zeros).tolist() == [1, 0]
    seen = jnp.array([[False, True, False], [True, False, False]])
    penalty = Sampling(repetition_penalty=1.5)
    assert sample(logits, penalty, zeros.astype(jnp.uint32), zeros, seen).tolist() == [2, 2]
    with pytest.raises(ValueError, match="needs seen_BV"):
        sample(logits, penalty, zeros.astype(jnp.uint32), zeros)


def test_it_compiles_once_for_equal_settings():
    before = sample._cache_size()
    args = np.zeros((3, V), np.float32), np.zeros(3, np.uint32), np.zeros(3, np.int32)
    for _ in range(2):
        jax.block_until_ready(sample(args[0], Sampling(temperature=0.6, top_k=2), *args[1:]))
    assert sample._cache_size() == before + 1


@pytest.mark.parametrize(("given", "said"), [
    ({"temperature": -1}, "temperature is -1; it must be 0"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_k": -1}, "top_k is -1"), ({"top_k": 0.5}, "top_k is 0.5"),
    ({"top_p": 0}, "top_p is 0; it must be more than 0 and at most 1"),
    ({"min_p": 1.5}, "min_p is 1.5"), ({"repetition_penalty": 0}, "repetition_penalty is 0")])
def test_values_out_of_range_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        Sampling(**given)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_that_the_tokenizer_lacks_are_never_chosen(temperature):
    logits_BV = jnp.zeros((64, 8)).at[:, 5:].set(4.0)
    seeds_B, index_B = jnp.arange(64, dtype=jnp.uint32), jnp.zeros(64, jnp.int32)
    limits = {size: sample(
        logits_BV, Sampling(temperature, vocab_size=size), seeds_B, index_B)
        for size in (0, 5)}
    assert limits[0].max() >= 5 and limits[5].max() < 5
