"""`lm2 bench costs`: the memory is compared with the same model without it."""

import io
import json

import pytest

from lm2_jax.bench import costs
from lm2_jax.config import files
from lm2_jax.report.costs import Costs, Pair, table
from lm2_jax.runtime.console import Console
from lm2_jax.training.clock import flops_per_token

TINY = {"model.vocab_size": 256, "model.embed_dim": 16, "model.num_layers": 1, "model.mlp_dim": 16,
        "model.memory.num_layers": 1, "model.segment_length": 8, "train.batch_size": 2,
        "data.curriculum": "((0,1),(5,2,3))"}


@pytest.mark.slow
def test_both_models_do_the_same_work_in_turns(tmp_path, monkeypatch, compiled_quickly):
    asked, pair = [], costs._pair

    def noted(what, tokens, flops, works, repeats, console):
        def of(model):
            return lambda: (asked.append((what, model)), works[model][0]())

        return pair(what, tokens, flops, [(of(i), works[i][1]) for i in (0, 1)], repeats, console)

    monkeypatch.setattr(costs, "_pair", noted)
    config = files.load_config("tiny", TINY)
    console = Console(file=io.StringIO(), width=200, color_system=None)
    found = costs.run(config, "tiny", ("250", "512"), 3, tmp_path / "out", console)
    assert [(pair.what, pair.tokens) for pair in found.pairs] == [
        ("read 250", 256), ("read 512", 512), ("train step", 3 * 2 * 8)]
    for pair in found.pairs:
        order = [model for what, model in asked if what == pair.what]
        assert order == [0, 1, 0, 1, 1, 0, 0, 1]  # the first two compile
        assert len(pair.time_ratios) == 3 and min(*pair.seconds[0], *pair.seconds[1]) > 0
        assert pair.flops[0] > pair.flops[1] > 0 and pair.memory[0] > pair.memory[1] > 0
    own, without = found.parameters
    assert own > without
    assert found.pairs[2].flops[0] == flops_per_token(config.model)
    assert found.pairs[0].memory == found.pairs[1].memory  # the state does not grow
    stored = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert stored["pairs"][1]["seconds"] == [list(x) for x in found.pairs[1].seconds]
    text = (tmp_path / "out" / "costs.md").read_text()
    assert text.startswith(f"tiny on one cpu: {own:,} parameters, {without:,} without the memory")
    assert (tmp_path / "out" / "costs.png").stat().st_size > 5000


def test_the_table_has_ratios_with_their_spread():
    pair = Pair("read 4k", 1000, (300.0, 200.0), ([2.0, 3.0, 9.0], [1.0, 2.0, 3.0]),
                (4_000_000, 2_000_000))
    row, = table(Costs("x", "cpu", (2, 1), [pair])).sections[0]
    assert row == ["read 4k", "1,000", "300", "1.50", "3,000.00", "2,000.00", "2.00 (1.50-3.00)",
                   "4.0", "2.0", "2.00"]


@pytest.mark.parametrize("changes,lengths,repeats,wanted", [
    ({"model.memory.num_layers": 0}, ("4k",), 1, "there is no memory whose cost to measure"),
    ({}, (), 1, "there must be a length"), ({}, ("4k",), 0, "1 repetition at least"),
    ({}, ("0k",), 1, "a context of no tokens"), ({}, ("long",), 1, "'long'"),
])
def test_what_cannot_be_measured_is_refused(tmp_path, changes, lengths, repeats, wanted):
    config = files.load_config("tiny", TINY | changes)
    with pytest.raises(ValueError, match=wanted):
        costs.run(config, "tiny", lengths, repeats, tmp_path)
