"""What `lm2 gates` says is what the gates do."""

import functools
import json
import math

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
        inputs.append(np.quantile(g["input"], gates.QUANTILES, axis=(1, 2)))
        forgets.append(np.quantile(g["forget"], gates.QUANTILES, axis=(1, 2)))
    for block, g in enumerate(found):
        for kind, name in ((PROSE, "prose"), (FACT, "facts"), (QUESTION, "question")):
            wanted = np.mean([outputs[i][block] for i in np.flatnonzero(kinds == kind)])
            assert g.output[name] == pytest.approx(wanted, rel=1e-5)
        for gate, of in ((g.input, inputs), (g.forget, forgets)):
            prose = np.mean([of[s][:, block] for s in (0, 2, 3)], axis=0)
            np.testing.assert_allclose(gate["prose"], prose, rtol=1e-5)
            np.testing.assert_allclose(gate["facts"], of[1][:, block], rtol=1e-5)


def test_what_is_not_there_is_said_to_be_unknown(params):
    block, _ = gates.measure(MODEL, params, [sample(3 * T, [], 2)], pad_id=0)
    assert math.isnan(block.output["facts"]) and all(map(math.isnan, block.forget["facts"]))
    assert all(0 < value < 1 for value in block.forget["prose"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    return runs.finished(tmp_path_factory.getbasetemp())


def test_the_command_shows_a_trained_run(finished, capsys):
    command = ["gates", runs.CONFIG, f"--workdir={finished}", "--config.eval.lengths=96",
               "--config.eval.batch_size=8", "--samples=3"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "half-life" in printed and "3 samples of up to 94 tokens" in printed
    found = json.loads((finished / "eval" / "gates.json").read_text())
    assert [block["block"] for block in found] == [0, 1]
    for block in found:
        assert all(0 < value < 1 for value in block["output"].values())
        assert block["forget"]["prose"] == sorted(block["forget"]["prose"])
    assert imread(finished / "eval" / "gates.png").std() > 0
    assert main([*command[:-1], "--samples=0"]) == 2
    assert "--samples is 0; it must be at least 1" in capsys.readouterr().err
