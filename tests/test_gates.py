"""What `lm2 gates` says is what the gates do."""

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
from matplotlib.image import imread

from lm2_jax.cli import main
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.data.babilong.kinds import FACT, PROSE, QUESTION
from lm2_jax.eval import gates
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.report import gates as report
from lm2_jax.report import style

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, M, D, P = 4, 3, 8, 2
CONFIG = ModelConfig(vocab_size=11, embed_dim=D, num_layers=3, num_heads=2, num_kv_heads=2,
                     mlp_dim=8, segment_length=T,
                     memory=MemoryConfig(num_slots=M, num_heads=2, num_layers=P))
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
        left = sigmoid(block + 3) ** (found.half_life[0] / T)
        assert left == pytest.approx(0.5, rel=1e-5) and len(set(found.half_life)) == 1


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
        both_MD = np.exp(forgets[2][block] + forgets[3][block])
        np.testing.assert_allclose(g.retention[1][1:], np.quantile(both_MD, gates.QUANTILES),
                                   rtol=1e-5)


class AlternatingModel:
    """Half of the dimensions forget in even segments, the other half in odd ones.

    The tokens of a segment say which: 0 or 1.
    """

    config = CONFIG

    def apply(self, params, tokens_BT, state, valid_BT, mutable):
        del params, valid_BT, mutable
        fast_D = (jnp.arange(D) % 2) == tokens_BT[0, 0]
        forget_PBMD = jnp.broadcast_to(jnp.where(fast_D, 0.5, 0.99), (P, 1, M, D))
        sown = {"output": (jnp.ones((P, 1, T, D)),), "input": (jnp.ones((P, 1, M, D)),),
                "forget": (forget_PBMD,)}
        return (types.SimpleNamespace(state=state),
                {"intermediates": {"memory_blocks": {"memory": sown}}})


def test_half_lives_belong_to_slots_and_dimensions():
    """Every dimension has the same mean of log f, so that all have one half-life."""
    tokens = np.repeat([0, 1] * 4 + [0], T).astype(np.int32)
    kinds = np.where(np.arange(len(tokens)) < 8 * T, PROSE, QUESTION)
    block, _ = gates.measure(AlternatingModel(), {}, [(tokens, kinds)], pad_id=0)
    half_life = T * math.log(0.5) / (math.log(0.5 * 0.99) / 2)
    assert block.half_life == pytest.approx([half_life] * 3, rel=1e-5)
    assert block.forget["prose"] == pytest.approx([math.sqrt(0.5 * 0.99)] * 3, rel=1e-5)
    assert [row[0] for row in block.retention] == [T, 2 * T, 4 * T, 8 * T]
    assert block.retention[0][1:] == pytest.approx([(0.5 + 0.99) / 2] * 3, rel=1e-5)
    assert block.retention[3][1:] == pytest.approx([(0.5 * 0.99) ** 4] * 3, rel=1e-5)


def test_gates_that_never_forget_have_no_half_life(params):
    memory = params["params"]["memory_blocks"]["memory"]
    gate = {"kernel": jnp.zeros_like(memory["forget_gate"]["kernel"]),
            "bias": jnp.full_like(memory["forget_gate"]["bias"], 100.0)}
    blocks = {**params["params"]["memory_blocks"], "memory": memory | {"forget_gate": gate}}
    params = {"params": {**params["params"], "memory_blocks": blocks}}
    block, _ = gates.measure(MODEL, params, [sample(3 * T, [], 2)], pad_id=0)
    assert block.half_life == (math.inf,) * 3


def test_what_is_not_there_is_said_to_be_unknown(params):
    block, _ = gates.measure(MODEL, params, [sample(3 * T, [], 2)], pad_id=0)
    assert math.isnan(block.output["facts"]) and all(map(math.isnan, block.forget["facts"]))
    assert all(0 < value < 1 for value in block.forget["prose"])


def test_plot_has_the_measured_points_beside_the_curves(monkeypatch):
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    half_life = (50.0, 100.0, 200.0)
    retention = tuple((tokens, 0.7, 0.8, 0.9) for tokens in (24.0, 48.0))
    block = gates.Gates(0, {}, {}, {}, half_life, retention)
    report.plot_gates([block], "", 24, 1_000, "")
    axes, = drawn[0].axes
    lines = [np.column_stack(line.get_data()) for line in axes.get_lines() if len(line.get_xdata())]
    for curve, points, at, left in zip(lines[::2], lines[1::2], half_life[1:], (0.8, 0.9),
                                       strict=True):
        assert curve[0, 0] == 24 and curve[-1, 0] == 1_000  # no less than a segment
        np.testing.assert_allclose(curve[:, 1], 0.5 ** (curve[:, 0] / at))
        assert points.tolist() == [[24, left], [48, left]]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    return runs.finished(tmp_path_factory.getbasetemp())


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
