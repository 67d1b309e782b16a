"""The wavefront gives what the sequential schedule gives: logits, state, gradients, readings."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from model_cases import CASES, B, V, make_config, variables

from lm2_jax.config import MemoryConfig
from lm2_jax.generation import reading
from lm2_jax.model import schedule
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import init
from lm2_jax.model.schedule import apply_segments, wavefront_groups
from lm2_jax.model.state import init_state
from lm2_jax.training.loss import loss_sums

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FEW = ("window beyond a segment", "associations in one block", "recurrence in one block")
WAVES = {name: config for name, config in CASES.items() if config.memory.kind != "rmt"}


@cache
def jitted(config, schedule):
    return jax.jit(lambda *args: apply_segments(LanguageModel(config), *args, schedule=schedule))


def ragged(config, S=5, seed=0):
    """Tokens, valid and reset: a row ends early, one has padding inside, two begin anew."""
    rng, T = np.random.default_rng(seed), config.segment_length
    L = S * T - 2
    valid_BL = np.arange(L)[None, :] < np.array([L, 2 * T + 1, L])[:, None]
    valid_BL[2, T:2 * T + 1] = False
    reset_BS = np.zeros((B, S), bool)
    reset_BS[0, 2] = reset_BS[2, 3] = True
    return rng.integers(0, V, (B, L), dtype=np.int32), valid_BL, reset_BS


def check_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(
        np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=0, atol=atol), a, b)


def used_state(config):
    return jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(3).normal(size=a.shape) / 4,
                                              a.dtype) if a.dtype != bool else ~a,
                        init_state(config, B))


@pytest.mark.parametrize("name", [name if name in FEW else pytest.param(
    name, marks=pytest.mark.slow) for name in WAVES])
def test_logits_and_state_are_the_sequential_ones(name):
    """Of ragged rows, from a state that is not the initial one, which resets put back."""
    config = WAVES[name]
    tokens_BL, valid_BL, reset_BS = ragged(config)
    one, other = (jitted(config, schedule)(variables(config), tokens_BL, used_state(config),
                                           valid_BL, reset_BS)
                  for schedule in ("sequential", "wavefront"))
    check_close((one.logits[valid_BL], one.state), (other.logits[valid_BL], other.state))
    assert jax.tree.structure(one.state) == jax.tree.structure(other.state)


def test_a_thousand_answers_are_the_same():
    """The most likely token at each of 1,005 places, and over fewer segments than blocks."""
    config = make_config(T=5, M=4, P=2, num_layers=3)
    tokens_BL = np.random.default_rng(0).integers(0, V, (B, 335), dtype=np.int32)
    for length in (335, 8):
        one, other = (np.asarray(jitted(config, schedule)(
            variables(config), tokens_BL[:, :length], init_state(config, B)).logits)
            for schedule in ("sequential", "wavefront"))
        check_close(one, other)
        assert np.array_equal(one.argmax(axis=-1), other.argmax(axis=-1))


@pytest.mark.parametrize("groups", [
    (2, 1), pytest.param((4, 2), marks=pytest.mark.slow)])
def test_blocks_in_groups(groups, monkeypatch):
    config = make_config(T=4, M=3, P=4, num_layers=6, window=5)
    tokens_BL, valid_BL, reset_BS = ragged(config, S=4)
    args = variables(config), tokens_BL, init_state(config, B), valid_BL, reset_BS
    one = jitted(config, "sequential")(*args)
    monkeypatch.setattr(schedule, "wavefront_groups", lambda *_: groups)
    other = jax.jit(lambda *args: schedule._apply_segments.__wrapped__(
        LanguageModel(config), "wavefront", 0, True, *args, None))(*args)
    check_close((one.logits[valid_BL], one.state), (other.logits[valid_BL], other.state))


@pytest.mark.parametrize("name,remat,remat_segments,bptt_segments", [
    ("lm2", "full", True, 2), pytest.param("armt", "none", False, 0, marks=pytest.mark.slow),
    pytest.param("lm2", "none", True, 0, marks=pytest.mark.slow),
    pytest.param("lm2", "dots", True, 3, marks=pytest.mark.slow)])
def test_loss_and_gradients(name, remat, remat_segments, bptt_segments):
    memory = MemoryConfig(kind=name, num_slots=3, num_heads=2, num_layers=1, key_dim=4)
    model = dataclasses.replace(training.MODEL, memory=memory, remat=remat, num_layers=3,
                                attention_window=3)
    rows = training.batch(0)
    params = init(model, jax.random.key(1))

    def run(schedule):
        def loss(params):
            sums = loss_sums(LanguageModel(dataclasses.replace(model, schedule=schedule)), params,
                             rows, jax.random.key(3), bptt_segments=bptt_segments,
                             remat_segments=remat_segments, chunk_tokens=2 * (name == "lm2"))
            return sums.loss + 0.3 * sums.writes, sums

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    one, other = run("sequential"), run("wavefront")
    assert float(one[0][1].writes) > 0.1
    check_close(one, other)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[1])) > 1e-2


def test_a_window_without_places():
    """As in the training of rows whose segments do not see the one before."""
    config = make_config(T=5, M=4, P=2, num_layers=3, attention_window=5)
    tokens_BL = np.random.default_rng(0).integers(0, V, (B, 20), dtype=np.int32)
    one, other = (jitted(config, schedule)(variables(config), tokens_BL, init_state(config, B, 0))
                  for schedule in ("sequential", "wavefront"))
    assert other.state.window.key_QBWKH.shape[2] == 0
    check_close((one.logits, one.state), (other.logits, other.state))


def test_dropout_differs_by_segment_and_block_and_is_repeated():
    config = make_config(T=5, P=2, dropout=0.5)
    tokens_BL = np.zeros((1, 30), np.int32)

    def run(seed):
        return np.asarray(apply_segments(
            LanguageModel(config), variables(config), tokens_BL, init_state(config, 1),
            schedule="wavefront", deterministic=False, rngs={"dropout": jax.random.key(seed)}
        ).logits).reshape(6, 5, V)

    one = run(0)
    assert np.array_equal(one, run(0)) and not np.array_equal(one, run(1))
    assert len({row.tobytes() for row in one}) == 6
    with pytest.raises(ValueError, match="dropout needs rngs"):
        apply_segments(LanguageModel(config), variables(config), tokens_BL, init_state(config, 1),
                       deterministic=False)


@pytest.mark.parametrize("wipe", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_text_is_read_in_chunks_and_read_on(wipe, monkeypatch):
    """The pipeline stays filled from chunk to chunk, and is drained for the state at the end."""
    monkeypatch.setattr(reading, "CHUNK", 3)
    base = make_config(T=4, M=3, P=1, num_layers=3, window=6)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, V, size, dtype=np.int32) for size in (33, 11, 3)]
    more = [rng.integers(0, V, size, dtype=np.int32) for size in (2, 30, 6)]
    found, filled = [], []
    fill = reading.fill
    monkeypatch.setattr(reading, "fill", lambda *args: filled.append(args) or fill(*args))
    for order in ("sequential", "wavefront"):
        model = LanguageModel(dataclasses.replace(base, schedule=order))
        first = reading.read(model, variables(base), texts, pad_id=0, wipe=wipe)
        second = reading.read(model, variables(base), more, first, pad_id=0, wipe=wipe)
        found.append([(r.state, r.tails, r.segments) for r in (first, second)])
        assert len(filled) == 2 * (order == "wavefront")
    check_close(*found)


def test_rmt_is_refused_in_one_line():
    config = CASES["memory tokens"]
    with pytest.raises(ValueError, match="must be sequential or auto for rmt, whose") as caught:
        apply_segments(LanguageModel(config), variables(config), np.zeros((B, 9), np.int32),
                       init_state(config, B), schedule="wavefront")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"model.schedule is 'wavefront'; it must be sequential or "
                                         r"auto for rmt, whose memory comes from the last block"):
        dataclasses.replace(config, schedule="wavefront")
    assert wavefront_groups(config, 100, 1, "auto") == ()


def test_auto_takes_the_wavefront_where_a_block_does_not_fill_the_device(monkeypatch):
    config = make_config(P=16, num_layers=16, T=64)
    assert wavefront_groups(config, 1000, 1, "auto") == ()
    assert wavefront_groups(config, 1000, 1, "wavefront") == (16,)
    monkeypatch.setattr(schedule.kernels, "filling_tokens", lambda width: 128)
    assert wavefront_groups(config, 1000, 1, "auto") == (2,)  # as many as fill the device
    assert wavefront_groups(config, 1000, 2, "auto") == ()
    assert wavefront_groups(config, 1, 1, "auto") == ()
    monkeypatch.setattr(schedule.kernels, "filling_tokens", lambda width: 1024)
    assert wavefront_groups(config, 1000, 1, "auto") == (16,)
    assert wavefront_groups(config, 4, 4, "auto") == (4,)  # which also take fewer ticks to fill
    assert schedule.expected_gain(config, 4, 4, (4,)) == pytest.approx(64 / (7 * 4))
