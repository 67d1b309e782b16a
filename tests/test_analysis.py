"""What `lm2 analyze` measures is what the model does: each number against a second way."""

import dataclasses
import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from matplotlib.image import imread

from lm2_jax.analysis import attention, distance, page, panels, plots, probe, reading
from lm2_jax.analysis import text as texts
from lm2_jax.analysis.planted import Planted, plant
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import DataConfig, MemoryConfig, ModelConfig
from lm2_jax.config.files import load_config
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.kinds import FACT, PROSE, QUESTION
from lm2_jax.data.babilong.prompting import FineTuned
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import init
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, M, D, P, V, N = 6, 3, 8, 2, 40, 2


def make(kind="lm2", blocks=P, **memory):
    config = ModelConfig(vocab_size=V, embed_dim=D, num_layers=blocks, num_heads=N, num_kv_heads=N,
                         mlp_dim=8, segment_length=T, tie_embeddings=False,
                         memory=MemoryConfig(kind=kind, num_slots=M, num_heads=N, num_layers=blocks,
                                             key_dim=4, **memory))
    return LanguageModel(config), reference.params(config, seed=1)


@functools.cache
def routed():
    return make(write="routed")


def tokens_of(length, seed=0):
    return np.random.default_rng(seed).integers(1, V, length, np.int32)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rms(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


# Attention maps.

def test_read_maps_are_the_softmax_of_the_models_own_affinities():
    model, params = routed()
    tokens = tokens_of(3 * T + 4)
    trace = reading.trace(model, params, tokens, 0, {1, 2, 3})
    banks = {"before": trace.states[1], "after": trace.states[2], "asked": trace.states[3]}
    found = attention.read_maps(model, params, banks, tokens, 3, 0, first=1)
    assert found.change.shape == (P, N)
    assert found.change[found.block, found.head] == found.change.max() > 0
    chosen = attention.read_maps(model, params, banks, tokens, 3, 0, 1, block=0, head=1)
    assert (chosen.block, chosen.head) == (0, 1)
    weights = jax.tree.map(np.float64, params["params"])
    block = jax.tree.map(lambda a: a[0], weights["memory_blocks"])
    for (name, state), map_TM in zip(banks.items(), chosen.maps.values(), strict=True):
        a_TD = rms(weights["embedding"][tokens[3 * T:]], block["attention_norm"]["scale"])
        n_MD = rms(np.asarray(state.memory[0, 0], np.float64),
                   block["memory"]["slot_norm"]["scale"])
        q_TH, k_MH = (x @ block["memory"][proj]["kernel"].reshape(D, N, D // N)[:, 1]
                      for x, proj in ((a_TD, "q_proj"), (n_MD, "k_proj")))
        wanted = softmax(q_TH @ k_MH.T / np.sqrt(D // N))[1:]
        np.testing.assert_allclose(map_TM, wanted, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(map_TM.sum(axis=1), 1, rtol=1e-6)
    moved = np.abs(found.maps["after"] - found.maps["before"]).sum(axis=1).mean() / 2
    assert moved == pytest.approx(found.change.max())
    with pytest.raises(UserError, match="--head is 2; it must be 0 to 1"):
        attention.read_maps(model, params, banks, tokens, 3, 0, 0, head=2)


def test_the_write_of_a_segment_is_shared_among_its_sentences():
    model, params = routed()
    trace = reading.trace(model, params, tokens_of(3 * T), 0)
    parts = [texts.Sentence(a, b, PROSE, "") for a, b in ((0, 4), (4, 9), (9, 12), (12, 18))]
    shares = panels.sentence_shares(trace.write[:, 0], parts)
    np.testing.assert_allclose(shares[3], 1, rtol=1e-5)  # a whole segment
    # The second sentence lies in two segments; the larger of its shares counts.
    np.testing.assert_allclose(shares[1], np.maximum(1 - shares[0], 1 - shares[2]), rtol=1e-5)
    assert (trace.written <= trace.write + 1e-6).all()


def test_a_trace_has_the_gates_and_the_movement_of_every_segment():
    model, params = routed()
    tokens = tokens_of(2 * T + 2)
    trace, state = reading.trace(model, params, tokens, 0, {0, 1, 2}), init_state(model.config, 1)
    assert {name: gate.shape for name, gate in trace.gates.items()} == dict.fromkeys(
        reading.GATES, (3, P))
    for number in range(3):
        jax.tree.map(np.testing.assert_array_equal, trace.states[number], state)
        part = tokens[None, number * T:(number + 1) * T]
        padded = np.pad(part, ((0, 0), (0, T - part.shape[1])))
        after, gates = reading.sown(model, params, state, padded, np.arange(T)[None] < part.size)
        gates["output"] = gates["output"][:, :, :part.size]
        for name in reading.GATES:
            wanted = np.asarray(gates[name]).reshape(P, -1).mean(axis=1)
            np.testing.assert_allclose(trace.gates[name][number], wanted, rtol=1e-4, atol=1e-6)
        old, new = (np.asarray(s.memory[:, 0]) for s in (state, after))
        size = np.maximum(*(np.linalg.norm(x, axis=2) for x in (old, new)))
        np.testing.assert_allclose(trace.moved[number], np.linalg.norm(new - old, axis=2) / size,
                                   rtol=1e-3, atol=1e-5)
        state = after


# The gradient to a fact.

@pytest.mark.parametrize("kind", ["lm2", *(pytest.param(kind, marks=pytest.mark.slow)
                                          for kind in ("rmt", "armt"))])
def test_gradients_are_those_of_the_whole_sequence(kind):
    """The second way: one pass over the sequence, its words replaced by ones that occur once.

    So the gradient to a row of the embedding is the gradient to a token.
    """
    model, params = make(kind, blocks=1, write="routed")
    B, F, ks = 2, 2, (1, 2)
    order = np.stack([np.random.default_rng(b).permutation(V)[:3 * T] for b in range(B)])
    support, prose = (np.zeros((B, 3 * T), bool) for _ in range(2))
    support[:, T - 1:T + 2] = True
    prose[0, :3] = True
    question = np.arange(1, 5, dtype=np.int32)
    planted = Planted("?", ["a", "b"], order.astype(np.int32), support, prose, F, question,
                      np.array([7, 8], np.int32))
    found = distance.gradients(model, params, planted, ks, 0)
    assert found.segments == ks and np.isnan(found.prose[:, 1]).all()
    tall = dataclasses.replace(model.config, vocab_size=3 * T + len(question))
    head_DV = params["params"]["lm_head"]["kernel"]

    def loss(rows_LD, answer):
        table = jnp.concatenate([rows_LD, params["params"]["embedding"][question]])
        swapped = {"params": params["params"] | {
            "embedding": table, "lm_head": {"kernel": jnp.zeros((D, len(table)))}}}
        out = apply_segments(LanguageModel(tall), swapped, jnp.arange(len(table))[None],
                             init_state(tall, 1), logits=False)
        return optax.softmax_cross_entropy_with_integer_labels(out.hidden[0, -1] @ head_DV, answer)

    gradient = jax.jit(jax.grad(loss))
    for b in range(B):
        norm_L = np.linalg.norm(gradient(params["params"]["embedding"][order[b]],
                                         planted.answer_B[b]), axis=1)
        assert found.fact[1, b] == pytest.approx(norm_L[T - 1:T + 2].mean(), rel=1e-3)
        assert found.fact[1, b] > 0 and found.fact[0, b] != found.fact[1, b]
        if b == 0:
            assert found.prose[1, b] == pytest.approx(norm_L[:3].mean(), rel=1e-3)
    if kind != "lm2":
        return
    at = [np.asarray(states[1].memory) for states in distance.states(model, params, planted, ks, 1)]
    state = init_state(model.config, 2)
    for s in range(3):
        state = model.apply(params, order[:, s * T:(s + 1) * T], state).state
    np.testing.assert_allclose(np.concatenate(at, axis=1), state.memory, rtol=1e-4, atol=1e-5)


# The probe.

def test_a_probe_finds_what_is_planted_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    noise = rng.normal(size=(120, 500))
    planted = noise + 2 * np.eye(4)[labels] @ rng.normal(size=(4, 500))
    assert np.mean(probe.predictions(planted, labels) == labels) > 0.95
    assert np.mean(probe.predictions(noise, labels) == labels) < 0.45  # 500 features fit anything
    assert probe.constant(np.array([0, 1, 1, 2])) == 0.5


def test_the_ridge_has_the_smallest_leave_one_out_error():
    rng = np.random.default_rng(1)
    x, new = rng.normal(size=(12, 5)), rng.normal(size=(3, 5))
    y = np.eye(2)[(x[:, 0] + rng.normal(size=12) > 0).astype(int)]

    def solve(x, y, ridge, new):  # the primal solution
        mean, centre = x.mean(axis=0), y.mean(axis=0)
        x = x - mean
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(5), x.T @ (y - centre))
        return (new - mean) @ weights + centre

    scale = np.trace(np.cov(x.T, bias=True))  # the mean eigenvalue of the kernel
    errors = []
    for ridge in np.array(probe.RIDGES) * scale:
        left_out = [solve(np.delete(x, i, 0), np.delete(y, i, 0), ridge, x[i]) - y[i]
                    for i in range(12)]
        errors.append(np.mean(np.square(left_out)))
    best = probe.RIDGES[int(np.argmin(errors))] * scale
    np.testing.assert_allclose(probe._fit(x, y, new), solve(x, y, best, new), rtol=1e-6)


# Texts.

@functools.cache
def stories(task):
    data = DataConfig(tasks=(task,), background_sentences=400, persons=2,
                      tokenizer_vocab_size=1024)
    config = dataclasses.replace(load_config("configs/tiny.py"), data=data)
    return corpus.held_out(config, corpus.make_tokenizer(data, 0))


@pytest.mark.parametrize("task,segment_length", [("qa1", 24), ("qa2", 32)])
def test_planted_texts_are_facts_and_then_prose(task, segment_length):
    drawn_from = stories(task)
    style, decode = FineTuned(drawn_from.encoder), drawn_from.encoder.tokenizer.decode
    made = plant(drawn_from, style, segment_length, 12, 3, seed=5)
    F, L = made.fact_segments, made.tokens_BL.shape[1]
    assert made.tokens_BL.shape == (12, (F + 3) * segment_length)
    assert len({row.tobytes() for row in made.tokens_BL}) == 12
    assert decode(made.question_Q).startswith(made.question.rstrip("?"))
    for b, answer in enumerate(made.answers):
        facts = np.flatnonzero(~made.prose_BL[b])
        assert (F - 1) * segment_length <= facts[-1] < F * segment_length < L
        assert np.array_equal(np.diff(facts), np.ones(len(facts) - 1))  # one after the other
        assert answer in decode(made.tokens_BL[b][made.support_BL[b]])
        assert decode([made.answer_B[b]]).strip() in answer
    part = made.rows(2, 5)
    assert part.answers == made.answers[2:5] and np.array_equal(part.answer_B, made.answer_B[2:5])


def test_sentences_and_the_one_that_answers():
    encoder = stories("qa1").encoder
    said = ["Mary went to the kitchen.", "John went to the kitchen.", "Mary moved to the garden.",
            "Where is Mary?"]
    parts = [encoder.text(text) for text in said]
    tokens = np.concatenate(parts)
    kinds = np.repeat([FACT, FACT, FACT, QUESTION], [len(part) for part in parts])
    found = texts.sentences(tokens, kinds, encoder.tokenizer)
    assert [s.text for s in found] == said and found[-1].end == len(tokens)
    assert [tokens[s.start:s.end].tolist() for s in found] == [list(part) for part in parts]
    assert texts.supporting(found, said[3], "kitchen", len(tokens)) == found[0]
    assert texts.supporting(found, said[3], "garden", len(tokens)) == found[2]
    assert texts.supporting(found[3:], said[3], "garden", len(tokens)) is None
    # A fact without the answer is no answer among few-shot examples.
    assert texts.supporting(found, said[3], "office", len(tokens)) == found[2]
    assert texts.supporting(found, said[3], "office", len(tokens), must_answer=True) is None
    assert texts.supporting(found, said[3], "garden", found[1].end).text == said[0]
    assert found[1].segments(3) == (2, 3)
    marked = np.append(tokens[-2:], [encoder.tokenizer.answer_id, encoder.tokenizer.unk_id])
    assert texts.words(marked, encoder.tokenizer) == ["Mary", "?", "<answer>", "_"]


# The page.

def test_the_page_holds_every_panel_and_its_picture(tmp_path):
    picture = plots.probe({"a": [0.5, 1.0]}, 0.2, [1, 2], tmp_path / "one.png", 24, "x < y")
    found = [page.Panel("one", "First & last", "look <here>", picture,
                        {"values": np.array([1.0, np.nan]), "n": np.int64(3)}),
             page.Panel("two", "Second", "", reason="it has no <gates>")]
    index, numbers = page.write(tmp_path, "A run", {"step": "3"}, found)
    said = index.read_text()
    assert "First &amp; last" in said and "look &lt;here&gt;" in said
    assert "Left out: it has no &lt;gates&gt;." in said and said.count("<img") == 1
    assert json.loads(numbers.read_text()) == {
        "about": {"step": "3"}, "one": {"values": [1.0, None], "n": 3},
        "two": {"left_out": "it has no <gates>"}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Makes a workdir of new parameters, which needs no training."""
    def make(name, **changes):
        folder = tmp_path_factory.mktemp(name)
        config = load_config("configs/tiny.py", {
            f"model.{key}": str(value) for key, value in changes.items()})
        _, config, _ = workdirs.prepare(config, folder)
        workdirs.store_config(config, folder)
        checkpointer = Checkpointer(folder, config.checkpoint)
        checkpointer.save(3, nn.unbox(init(config.model, jax.random.key(0))),
                          {"step": np.int32(3)}, {"next_step": 3})
        checkpointer.wait()
        return folder

    return make


PANELS = ["read", "sentences", "gates", "gradient", "probe", "movement"]
COMMAND = ["analyze", "--config=configs/tiny.py", "--samples=10", "--segments=2",
           "--config.eval.lengths=192", "--config.eval.batch_size=8"]


@pytest.mark.parametrize("kind,left_out", [
    ("lm2", []), *(pytest.param(kind, left_out, marks=pytest.mark.slow) for kind, left_out in (
        ("rmt", ["read", "sentences", "gates"]), ("armt", ["read", "sentences"]),
        ("delta", ["read", "sentences"])))])
def test_the_command_writes_the_page(kind, left_out, workdir, tmp_path, capsys):
    changes = {"num_layers": 1, "memory.num_layers": 1, "memory.kind": kind,
               "memory.write": "routed"}
    folder, out = workdir(kind, **changes), tmp_path / "page"
    before = sorted(folder.rglob("*"))
    assert main([*COMMAND, f"--workdir={folder}", f"--out={out}",
                 *(f"--config.model.{key}={value}" for key, value in changes.items())]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out / "index.html")
    assert sorted(folder.rglob("*")) == before
    said, numbers = (out / "index.html").read_text(), json.loads(
        (out / "analysis.json").read_text())
    assert re.findall(r'<h2 id="(\w+)"', said) == PANELS and list(numbers)[1:] == PANELS
    for name in PANELS:
        assert ("left_out" in numbers[name]) == (name in left_out)
        assert (f"left out: {name}: " in printed) == (name in left_out)
        if name not in left_out:
            assert f'href="{name}.png"' in said and imread(out / f"{name}.png").std() > 0
    assert said.count("data:image/png;base64,") == len(PANELS) - len(left_out)
    accuracies = numbers["probe"]["accuracy"]
    assert all(len(values) == 2 for values in accuracies.values()) and len(accuracies) >= 2


def test_what_cannot_be_analysed_is_one_line(workdir, capsys):
    folder = workdir("llama", **{"memory.num_layers": 0})
    for arguments, wanted in (
            (["--config.model.memory.num_layers=0"], "there is no memory to analyse"),
            (["--samples=3"], "--samples is 3; it must be at least 10"),
            (["--config.eval.lengths=()"], "eval.lengths is empty, so there are no samples")):
        assert main([*COMMAND, f"--workdir={folder}", *arguments]) == 2
        line, = capsys.readouterr().err.splitlines()
        assert wanted in line
