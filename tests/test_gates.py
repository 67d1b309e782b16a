"""What `lm2 gates` says is what the gates do."""

import dataclasses
import functools
import json
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.image import imread

from lm2_jax.cli import main
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.data.babilong.kinds import FACT, PROSE, QUESTION
from lm2_jax.eval import gates
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
from lm2_jax.report import gates as report
from lm2_jax.report import style

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, M, D, P = 4, 3, 8, 2
CONFIG = ModelConfig(vocab_size=11, embed_dim=D, num_layers=3, num_heads=2, num_kv_heads=2,
                     mlp_dim=8, segment_length=T,
                     memory=MemoryConfig(num_slots=M, num_heads=2, num_layers=P, write="paper"))
MODEL = LanguageModel(CONFIG)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32),
                                        init_state(CONFIG, 1)))


def sample(length, facts, question, seed=0):
    kinds = np.full(length, PROSE)
    kinds[facts], kinds[length - question:] = FACT, QUESTION
    return np.random.default_rng(seed).integers(0, 11, length, np.int32), kinds


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_gates_that_stand_still_are_found_as_they_stand(params):
    memory = params["params"]["memory_blocks"]["memory"]
    still = {name: {"kernel": jnp.zeros_like(memory[name]["kernel"]),
                    "bias": jnp.stack([jnp.full(D, bias), jnp.full(D, bias + 1)])}
             for name, bias in (("output_gate", -1.0), ("input_gate", 0.5), ("forget_gate", 3.0))}
    blocks = {**params["params"]["memory_blocks"], "memory": memory | still}
    params = {"params": {**params["params"], "memory_blocks": blocks}}
    samples = [sample(21, [6, 7], 2), sample(9, [0], 3)]
    for block, found in enumerate(gates.measure(MODEL, params, samples, pad_id=0)):
        assert found.block == block
        for value in found.output.values():
            assert value == pytest.approx(sigmoid(block - 1), rel=1e-6)
        for where in ("prose", "facts"):
            assert found.input[where] == pytest.approx([sigmoid(block + 0.5)] * 3, rel=1e-6)
            assert found.forget[where] == pytest.approx([sigmoid(block + 3)] * 3, rel=1e-6)
        assert found.open == {} and found.closed == {}  # the paper's write has no u


def test_gates_are_those_of_the_segments_and_tokens_named(params):
    tokens, kinds = sample(4 * T + 2, [T, T + 1], 2)
    found = gates.measure(MODEL, params, [(tokens, kinds)], pad_id=0)
    state, outputs, inputs, forgets = init_state(CONFIG, 1), [], [], []
    plain, watched = jax.jit(MODEL.apply), jax.jit(
        functools.partial(MODEL.apply, mutable="intermediates"))
    for start in range(0, len(tokens), T):
        part = tokens[None, start:start + T]
        out, sown = watched(params, part, state)
        np.testing.assert_allclose(out.logits, plain(params, part, state).logits, rtol=1e-5,
                                   atol=1e-5)  # another program, so to rounding
        state = out.state
        g = {name: np.asarray(value[0][:, 0], np.float64) for name, value in
             sown["intermediates"]["memory_blocks"]["memory"].items()}
        outputs += list(g["output"].mean(axis=2).T)
        inputs.append(g["input"])
        forgets.append(np.log(g["forget"]))
    for block, g in enumerate(found):
        for kind, name in ((PROSE, "prose"), (FACT, "facts"), (QUESTION, "question")):
            wanted = np.mean([outputs[i][block] for i in np.flatnonzero(kinds == kind)])
            assert g.output[name] == pytest.approx(wanted, rel=1e-5)
        for name, segments in (("prose", (0, 2, 3)), ("facts", (1,))):
            for gate, values, final in ((g.input, inputs, np.asarray), (g.forget, forgets, np.exp)):
                mean_MD = final(np.mean([values[s][block] for s in segments], axis=0))
                np.testing.assert_allclose(gate[name], np.quantile(mean_MD, gates.QUANTILES),
                                           rtol=1e-5)
        # Segments 2 and 3 are the only two in a row without a fact.
        assert [row[0] for row in g.retention] == [T, 2 * T]


def changed(params, **memory):
    """The parameters with others in each block's memory."""
    blocks = params["params"]["memory_blocks"]
    blocks = blocks | {"memory": blocks["memory"] | memory}
    return {"params": params["params"] | {"memory_blocks": blocks}}


@pytest.mark.parametrize("write", ["paper", "routed"])
def test_what_is_left_of_a_value_is_counted_against_what_is_written_over_it(params, write):
    """The reference follows every value through the segments and takes shares at the end."""
    config = dataclasses.replace(CONFIG, memory=dataclasses.replace(CONFIG.memory, write=write))
    model, N = LanguageModel(config), CONFIG.memory.num_heads
    if write == "routed":  # biases at which slots are closed, between, and open
        params = changed(params, route_bias=jnp.array([[3.0, 0.0], [1.5, -1.0]]))
    tokens, kinds = sample(7 * T + 2, [2 * T], 2, seed=1)
    found = gates.measure(model, params, [(tokens, kinds)], pad_id=0)
    run = jax.jit(functools.partial(model.apply, mutable="intermediates"))
    state, steps = init_state(config, 1), []
    for start in range(0, 7 * T, T):
        out, sown = run(params, tokens[None, start:start + T], state)
        g = {name: np.asarray(value[0][:, 0], np.float64) for name, value in
             sown["intermediates"]["memory_blocks"]["memory"].items()}
        u_PNM = g.get("open", np.ones((P, N, M)))
        u_PMD = np.repeat(u_PNM.swapaxes(1, 2), D // N, axis=2)
        r = 1 - u_PMD * (1 - g["forget"])
        old, new = (np.asarray(s.memory[:, 0], np.float64) for s in (state, out.state))
        steps.append((old, r, np.abs(new - r * old), u_PNM))
        state = out.state
    prose = [0, 1, 3, 4, 5, 6]
    for block, g in enumerate(found):
        for n, starts in ((1, prose), (2, [0, 3, 5]), (4, [3])):
            left, added = [], []
            for start in starts:
                o, a = np.abs(steps[start][0][block]), 0.0
                for _, r, w, _ in steps[start:start + n]:
                    o, a = o * r[block], a * r[block] + w[block]
                left.append(o)
                added.append(a)
            o, a = np.mean(left, axis=0), np.mean(added, axis=0)
            row = g.retention[{1: 0, 2: 1, 4: 2}[n]]
            assert row[0] == n * T
            share = np.where(o + a > 0, o / np.maximum(o + a, 1e-30), 1.0)
            np.testing.assert_allclose(row[1:], np.quantile(share, gates.QUANTILES), rtol=1e-4,
                                       atol=1e-6)
        assert len(g.retention) == 3
        o, w = (np.mean([np.abs(steps[s][i][block]) for s in prose], axis=0) for i in (0, 2))
        r = np.exp(np.mean([np.log(steps[s][1][block]) for s in prose], axis=0))
        for row in g.expected[:5]:
            n = int(row[0]) // T
            a = w * sum(r**j for j in range(n))
            share = np.where(o + a > 0, r**n * o / np.maximum(r**n * o + a, 1e-30), 1.0)
            np.testing.assert_allclose(row[1:], np.quantile(share, gates.QUANTILES), rtol=1e-4,
                                       atol=1e-6)
        assert list(g.half_life) == sorted(g.half_life)
        if write == "paper":
            assert not g.open
            continue
        for name, segments in (("prose", prose), ("facts", [2])):
            u = np.stack([steps[s][3][block] for s in segments])
            np.testing.assert_allclose(g.open[name], np.quantile(u.mean(axis=0), gates.QUANTILES),
                                       rtol=1e-5, atol=1e-7)
            assert g.closed[name] == pytest.approx(np.mean(u == 0))
    if write == "routed":
        assert 0 < found[0].closed["prose"] < 1


@given(hnp.arrays(np.float64, (2, 2, 3), elements=st.floats(1e-3, 1)), st.floats(1e-3, 1),
       st.floats(1e-4, 1))
def test_at_its_half_life_a_value_is_half_of_its_slot(old, kept, added):
    means = gates._Means()
    means.add(gates._Stretch(old, np.full(old.shape, math.log(kept)), np.full(old.shape, added)))
    half, n = means.half_life(1), 4
    expected = kept**n * old[1] / (kept**n * old[1] + added * sum(kept**i for i in range(n)))
    np.testing.assert_allclose(means.share_after(1, n), expected, rtol=1e-6)
    for at, value in zip(half.ravel(), old[1].ravel(), strict=True):
        single = gates._Means()
        single.add(gates._Stretch(*(np.full((1, 1, 1), x) for x in (value, math.log(kept), added))))
        assert single.share_after(0, at).item() == pytest.approx(0.5, rel=1e-5)


class Writer:
    """Every segment multiplies each value by `forget` and adds `write`."""

    config = CONFIG

    def __init__(self, forget, write):
        self.forget, self.write = forget, write

    def apply(self, params, tokens_BT, state, valid_BT, mutable):
        del params, tokens_BT, valid_BT, mutable
        forget_PBMD = jnp.full((P, 1, M, D), self.forget)
        sown = {"output": (jnp.ones((P, 1, T, D)),), "input": (jnp.ones((P, 1, M, D)),),
                "forget": (forget_PBMD,)}
        state = state.replace(memory=self.forget * state.memory + self.write)
        return (types.SimpleNamespace(state=state),
                {"intermediates": {"memory_blocks": {"memory": sown}}})


def test_what_is_piled_on_covers_a_value_that_never_fades():
    """f alone is 1 here. The mean value over segments 0 to 3 is 1.5 writes, in most dimensions."""
    tokens, kinds = sample(4 * T + 2, [], 2)
    block, _ = gates.measure(Writer(1.0, 0.5), {}, [(tokens, kinds)], pad_id=0)
    assert block.half_life[:2] == pytest.approx([1.5 * T] * 2)
    assert block.retention[2][1] == pytest.approx(0.0)  # was 0 before the first of the four
    block, _ = gates.measure(Writer(1.0, 0.0), {}, [(tokens, kinds)], pad_id=0)
    assert block.half_life == (math.inf,) * 3  # nothing is added
    assert block.expected[-1][1:] == block.retention[-1][1:] == (1.0,) * 3


def test_what_is_not_there_is_said_to_be_unknown(params):
    block, _ = gates.measure(MODEL, params, [sample(3 * T, [], 2)], pad_id=0)
    assert math.isnan(block.output["facts"]) and all(map(math.isnan, block.forget["facts"]))
    assert all(0 < value < 1 for value in block.forget["prose"])


def test_plot_has_the_measured_points_beside_the_curves(monkeypatch):
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    retention = tuple((tokens, 0.7, 0.8, 0.9) for tokens in (24.0, 48.0))
    expected = tuple((24.0 * 2**i, 0.5**i, 0.6**i, 0.7**i) for i in range(7))
    block = gates.Gates(0, {}, {}, {}, {}, {}, (50.0, 100.0, 200.0), expected, retention)
    report.plot_gates([block], "", 24, 1_000, "")
    axes, = drawn[0].axes
    lines = [np.column_stack(line.get_data()) for line in axes.get_lines() if len(line.get_xdata())]
    assert axes.get_xlim()[0] < 24 and 1_000 < axes.get_xlim()[1] < 1_200
    for curve, points, i, left in zip(lines[::2], lines[1::2], (2, 3), (0.8, 0.9), strict=True):
        assert curve.tolist() == [[row[0], row[i]] for row in expected]
        assert points.tolist() == [[24, left], [48, left]]


COMMAND = ["gates", runs.CONFIG, "--config.eval.lengths=96", "--config.eval.batch_size=8"]


def test_the_command_shows_a_trained_run(finished, tmp_path, capsys):
    """--out is for workdirs that cannot be written to."""
    before = sorted(finished.rglob("*"))
    assert main([*COMMAND, f"--workdir={finished}", "--samples=3", f"--out={tmp_path / 'out'}"]
                ) == 0
    printed = capsys.readouterr().out
    assert "half-life" in printed and "3 samples of up to 94 tokens" in printed
    assert printed.splitlines()[-2:] == [str(tmp_path / "out" / name) for name in
                                         ("gates.json", "gates.png")]
    assert sorted(finished.rglob("*")) == before
    found = json.loads((tmp_path / "out" / "gates.json").read_text())
    assert [block["block"] for block in found] == [0, 1]
    for block in found:
        assert all(0 < value < 1 for value in block["output"].values())
        assert block["forget"]["prose"] == sorted(block["forget"]["prose"])
    assert imread(tmp_path / "out" / "gates.png").std() > 0
    assert main([*COMMAND, f"--workdir={finished}", "--samples=0"]) == 2
    assert "--samples is 0; it must be at least 1" in capsys.readouterr().err


def test_more_samples_than_there_are_indices_is_one_line(finished, tmp_path, capsys):
    (tmp_path / "qa1_single-supporting-fact_test.txt").write_text(
        "1 Mary went to the kitchen.\n2 Where is Mary?\tkitchen\t1\n")
    (tmp_path / "indices.json").write_text(json.dumps({"qa1": [0]}))
    assert main([*COMMAND, f"--workdir={finished}", f"--config.eval.babi={tmp_path}",
                 f"--config.eval.indices={tmp_path / 'indices.json'}",
                 "--config.eval.num_samples=1", "--config.eval.during_training=0",
                 "--samples=2"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert "has 1 indices of qa1" in line and "--samples" in line
