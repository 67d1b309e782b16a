"""The training step: what may not change its result, and what must."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import (
    CONFIG,
    MODEL,
    B,
    S,
    T,
    batch,
    first_state,
    furthest,
    one_device,
    plain,
    train,
)

from lm2_jax.config import MemoryConfig, TrainConfig
from lm2_jax.model import kernels
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state
from lm2_jax.training import optimizer
from lm2_jax.training.loss import count_answers, loss_sums
from lm2_jax.training.step import make_loss

pytestmark = pytest.mark.usefixtures("compiled_quickly")

@functools.cache
def variables():
    init = jax.jit(lambda: LanguageModel(MODEL).init(
        jax.random.key(1), jnp.zeros((1, 1), jnp.int32), init_state(MODEL, 1)))
    return nn.unbox(init())


STATIC = ("model", "bptt_segments", "remat_segments")


@functools.partial(jax.jit, static_argnames=STATIC)
def sums_only(params, rows, *, model=MODEL, bptt_segments=0, remat_segments=False):
    return loss_sums(LanguageModel(model), params, rows, jax.random.key(3),
                     bptt_segments=bptt_segments, remat_segments=remat_segments)


@functools.partial(jax.jit, static_argnames=STATIC)
def sums_and_grads(params, rows, **options):
    def loss(params):
        sums = sums_only(params, rows, **options)
        return sums.loss, sums

    grads, sums = jax.grad(loss, has_aux=True)(params)
    return sums, grads


# The loss.

def test_loss_is_the_cross_entropy_of_the_logits():
    rows = batch(0)
    sums = sums_only(variables(), rows)
    out = jax.jit(functools.partial(apply_segments, LanguageModel(MODEL), variables()))(
        rows.tokens_BL, init_state(MODEL, B), rows.valid_BL, rows.reset_BS)
    logits = np.asarray(out.logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    loss_BL = -np.take_along_axis(log_p, rows.targets_BL[..., None], axis=-1)[..., 0]
    row_loss_B = (loss_BL * rows.loss_weight_BL).sum(axis=1)
    np.testing.assert_allclose(sums.row_loss_B, row_loss_B, rtol=1e-5)
    np.testing.assert_allclose(sums.loss, row_loss_B.sum(), rtol=1e-5)
    assert sums.weight == rows.loss_weight_BL.sum() and sums.tokens == rows.valid_BL.sum()


def test_an_answer_counts_if_all_of_its_tokens_are_right():
    right_BT = np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1], [1, 0, 1, 0, 1, 0],
                         [1, 1, 1, 1, 1, 1]], bool)
    answer_BT = np.array([[1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0],
                          [1, 1, 1, 1, 1, 1]], bool)
    for rows, wanted in ((slice(0, 1), (1, 2)), (slice(1, 2), (1, 2)), (slice(2, 3), (0, 0)),
                         (slice(3, 4), (1, 1)), (slice(4), (3, 5))):
        assert jax.jit(count_answers)(right_BT[rows], answer_BT[rows]) == wanted


def test_metrics_are_ratios_over_the_whole_batch():
    rows = batch(0)
    sums, grads = sums_and_grads(plain().before, rows)
    first, *_ = plain().metrics
    np.testing.assert_allclose(first["loss"], sums.loss / sums.weight, rtol=1e-6)
    np.testing.assert_allclose(first["answer_accuracy"], sums.hits / sums.answers, rtol=1e-6)
    squares = sum(float(jnp.sum(jnp.square(g / sums.weight))) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(first["grad_norm"], squares**0.5, rtol=1e-5)
    assert first["tokens"] == rows.valid_BL.sum()


def test_padding_changes_nothing():
    rows = batch(0)
    wanted, wanted_grads = sums_and_grads(variables(), rows)
    rng = np.random.default_rng(9)
    other = rng.integers(0, 24, rows.tokens_BL.shape, np.int32)
    others = rows.replace(
        tokens_BL=np.where(rows.valid_BL, rows.tokens_BL, other),
        targets_BL=np.where(rows.loss_weight_BL > 0, rows.targets_BL, other))
    assert not np.array_equal(others.tokens_BL, rows.tokens_BL)
    for leaf, same in zip(jax.tree.leaves(sums_and_grads(variables(), others)),
                          jax.tree.leaves((wanted, wanted_grads)), strict=True):
        np.testing.assert_array_equal(leaf, same)

    empty = jax.tree.map(lambda a: np.concatenate([a, np.zeros_like(a[:5])]), batch(0))
    sums, grads = sums_and_grads(variables(), empty)
    assert np.all(sums.row_loss_B[B:] == 0)
    assert (sums.weight, sums.answers, sums.hits, sums.tokens) == (
        wanted.weight, wanted.answers, wanted.hits, wanted.tokens)
    np.testing.assert_allclose(sums.loss, wanted.loss, rtol=1e-6)
    assert furthest(grads, wanted_grads) < 1e-5


# The gradient through time.

def test_bptt_cuts_the_gradient_and_leaves_the_loss():
    rows = batch(1).replace(reset_BS=np.arange(S) < np.ones((B, 1)))
    results = {n: sums_and_grads(variables(), rows, bptt_segments=n) for n in (0, 1, 2)}
    for sums, _ in results.values():
        np.testing.assert_array_equal(sums.row_loss_B, results[0][0].row_loss_B)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert furthest(results[a][1], results[b][1]) > 1e-3


def test_bptt_of_one_is_the_gradient_of_each_segment_alone():
    rows, model = batch(2), LanguageModel(MODEL)
    _, grads = sums_and_grads(variables(), rows, bptt_segments=1)

    @jax.jit
    def segment(params, state, tokens, targets, weight, valid, reset):
        def loss(params):
            out = model.apply(params, tokens, state, valid, reset)
            log_p = jax.nn.log_softmax(out.logits)
            losses = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
            return jnp.sum(losses * weight), out.state

        return jax.grad(loss, has_aux=True)(params)

    state, wanted = init_state(MODEL, B), []
    for s in range(S):
        fields = (rows.tokens_BL, rows.targets_BL, rows.loss_weight_BL, rows.valid_BL)
        part, state = segment(variables(), state, *(a[:, s * T:(s + 1) * T] for a in fields),
                              rows.reset_BS[:, s])
        wanted.append(part)
    assert furthest(grads, jax.tree.map(lambda *parts: sum(parts), *wanted)) < 1e-5


@pytest.mark.parametrize("remat_segments,remat,unroll", [
    (True, "none", 1), (False, "dots", 3), (True, "full", 2)])
def test_recomputing_and_unrolling_give_the_same_gradient(remat_segments, remat, unroll,
                                                          monkeypatch):
    monkeypatch.setattr(kernels, "unroll", lambda length, copied=0: min(unroll, length))
    model = dataclasses.replace(MODEL, remat=remat)
    sums, grads = sums_and_grads(variables(), batch(0), model=model,
                                 remat_segments=remat_segments)
    wanted_sums, wanted = sums_and_grads(variables(), batch(0))
    assert furthest(grads, wanted) < 5e-6
    np.testing.assert_allclose(sums.loss, wanted_sums.loss, rtol=1e-6)


# The step.

@pytest.mark.parametrize("accumulate_steps", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_micro_batches_give_the_same_step(accumulate_steps):
    run, wanted = train(dataclasses.replace(CONFIG, accumulate_steps=accumulate_steps)), plain()
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), run.after, wanted.after)
    assert max(jax.tree.leaves(difference)) < 1e-6
    for values, same in zip(run.metrics, wanted.metrics, strict=True):
        assert values.keys() == same.keys()
        for name in values:
            np.testing.assert_allclose(values[name], same[name], rtol=1e-5, err_msg=name)


def test_the_state_that_goes_in_is_given_up():
    for state in plain().given:
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert int(plain().state.step) == 3


def test_dropout_differs_between_steps_and_rows_but_not_between_runs():
    model = dataclasses.replace(MODEL, dropout=0.3)
    slow = dataclasses.replace(CONFIG, learning_rate=1e-30, final_learning_rate=0.0,
                               weight_decay=0.0)
    same_rows = [jax.tree.map(lambda a: np.repeat(a[:1], B, axis=0), batch(0))] * 2
    (first, second), (again, _) = (train(slow, model, batches=same_rows).metrics
                                   for _ in range(2))
    assert first["loss"] == again["loss"] != second["loss"]
    assert len(set(first["row_loss"].tolist())) == B


def test_dropout_differs_between_segments():
    model = dataclasses.replace(MODEL, dropout=0.3)
    once = jax.tree.map(lambda a: a[:, :T], batch(0)).replace(reset_BS=np.ones((B, 1), bool))
    twice = jax.tree.map(lambda a: np.concatenate([a, a], axis=1), once)
    for used, same in ((model, False), (MODEL, True)):
        one, two = (sums_only(variables(), rows, model=used) for rows in (once, twice))
        assert np.allclose(two.row_loss_B, 2 * one.row_loss_B, rtol=1e-5) == same


@pytest.mark.parametrize("memory", [
    MemoryConfig(num_slots=3, num_heads=2, num_layers=1),
    pytest.param(MemoryConfig(kind="armt", num_slots=3, num_layers=1, key_dim=4),
                 marks=pytest.mark.slow),
    pytest.param(MemoryConfig(kind="delta", num_heads=2, num_layers=1, key_dim=4),
                 marks=pytest.mark.slow)], ids=lambda m: m.kind)
def test_a_cost_closes_the_memory_from_its_first_step_on(memory):
    model = dataclasses.replace(MODEL, memory=memory)
    config = dataclasses.replace(CONFIG, weight_decay=0.0, learning_rate=0.03)
    costly = dataclasses.replace(config, write_cost=100.0, write_cost_from=2)
    batches = [batch(0)] * 8
    free, cost = (train(each, model, batches=batches).metrics for each in (config, costly))
    np.testing.assert_allclose(*([values["loss"] for values in run[:3]] for run in (free, cost)),
                               rtol=1e-6)
    assert 0 < cost[-1]["writes"] < 0.9 * free[-1]["writes"] and free[-1]["writes"] < B * S
    nothing = batch(0).replace(valid_BL=np.zeros((B, S * T), bool))
    assert sums_only(nn.unbox(first_state(model).params), nothing, model=model).writes == 0


@pytest.mark.slow
def test_the_window_is_hidden_in_short_rows():
    """Then the loss is that of a model without one."""
    model = dataclasses.replace(MODEL, attention_window=T)
    params = first_state(model).params
    hidden, shown = (sums_only(params, batch(0), model=each) for each in (MODEL, model))
    assert np.abs(shown.row_loss_B - hidden.row_loss_B).max() > 1e-3
    for first, same in ((S, shown), (S + 1, hidden)):
        config = dataclasses.replace(CONFIG, window_from_segments=first)
        step, = train(config, model, batches=[batch(0)]).metrics
        np.testing.assert_allclose(step["row_loss"], same.row_loss_B, rtol=1e-5)
        loss = make_loss(LanguageModel(model), config, one_device(),
                         jax.tree.map(lambda leaf: leaf.sharding, params))
        np.testing.assert_allclose(loss(params, batch(0))[0], same.loss, rtol=1e-5)


# The optimizer.

def test_decay_is_on_kernels_and_embeddings_only():
    def check(path, decayed):
        assert decayed == (path[-1].key in ("kernel", "embedding")), path

    mask = optimizer.decay_mask(variables())
    jax.tree_util.tree_map_with_path(check, mask)
    assert len(set(jax.tree.leaves(mask))) == 2


def test_gates_learn_at_their_own_rate_and_need_not_decay():
    """The first step of Adam is the learning rate times the sign of the gradient."""
    def steps(**changes):
        config = dataclasses.replace(CONFIG, **changes)
        transformation, params = optimizer.make(config), variables()
        return jax.jit(lambda params: transformation.update(
            jax.tree.map(jnp.ones_like, params), transformation.init(params), params)[0])(params)

    plain, changed = steps(weight_decay=0.0), steps(
        gate_learning_rate_factor=3.0, decay_gates=False, weight_decay=0.1)
    decayed = steps(weight_decay=0.1)

    def check(path, plain, decayed, changed):
        names = {key.key for key in path}
        gates = {"output_gate", "forget_gate", "forget_gate_of_slot", "route_bias"}
        gate = "memory" in names and bool(names & gates)
        np.testing.assert_allclose(changed, 3 * plain if gate else decayed, rtol=1e-5)
        return gate

    found = jax.tree_util.tree_map_with_path(check, plain, decayed, changed)
    assert sum(jax.tree.leaves(found)) == 6  # three kernels, two biases and that of the route


def test_a_run_can_be_resumed_with_another_rate_of_the_gates():
    """The checkpoint of the one fits the other."""
    states = [jax.tree.structure(optimizer.make(dataclasses.replace(
        CONFIG, gate_learning_rate_factor=factor)).init(variables())) for factor in (1.0, 3.0)]
    assert states[0] == states[1]


def test_without_a_gradient_only_what_is_decayed_changes():
    nothing = batch(0).replace(loss_weight_BL=np.zeros((B, S * T), np.float32))
    run = train(batches=[nothing])
    rate = CONFIG.learning_rate * CONFIG.weight_decay
    assert run.metrics[0]["loss"] == run.metrics[0]["grad_norm"] == 0

    def check(path, old, new):
        decayed = path[-1].key in ("kernel", "embedding")
        np.testing.assert_allclose(new, old * (1 - rate) if decayed else old, rtol=1e-6)
        assert not decayed or np.abs(old).max() > 0

    jax.tree_util.tree_map_with_path(check, run.before, run.after)


@pytest.mark.parametrize("num_steps,warmup,peak,final", [
    (100, 10, 1e-3, 1e-4), (100, 0, 1e-3, 0.0), (40, 39, 2.0, 1.0), (5, 100, 1e-3, 1e-4),
    (1, 0, 1e-3, 1e-4), (50, 10, 1e-4, 1e-3)])
def test_learning_rate_rises_in_a_line_and_falls_with_a_cosine(num_steps, warmup, peak, final):
    config = TrainConfig(num_steps=num_steps, warmup_steps=warmup, learning_rate=peak,
                         final_learning_rate=final)
    rates = np.asarray(jax.jit(optimizer.learning_rate(config))(np.arange(num_steps + 3)))
    warmup, final = min(warmup, num_steps - 1), min(peak, final)
    for step, rate in enumerate(rates):
        if step < warmup:
            wanted = peak * step / warmup
        else:
            part = min(1.0, (step - warmup) / (num_steps - warmup))
            wanted = final + (peak - final) * (1 + np.cos(np.pi * part)) / 2
        assert rate == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_the_rate_of_each_step_is_on_record():
    rates = optimizer.learning_rate(CONFIG)(np.arange(3))
    assert len(set(rates.tolist())) == 3
    np.testing.assert_allclose([values["learning_rate"] for values in plain().metrics], rates)


def test_answers_are_what_the_batch_says_whatever_the_weights():
    """With data.loss_on_all=1 every token has the weight of an answer."""
    rows = batch(0)
    everywhere = dataclasses.replace(rows, loss_weight_BL=rows.valid_BL.astype(np.float32))
    some, every = sums_only(variables(), rows), sums_only(variables(), everywhere)
    assert every.answers == some.answers > 0 and every.hits == some.hits
    assert every.weight > some.weight
