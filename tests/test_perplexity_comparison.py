"""Perplexity of several runs: in `lm2 sweep` and `lm2 report`, and configs/ablation_blocks.py."""

import dataclasses
import io
import json

import jax
import matplotlib.axes
import numpy as np
import pytest
from config_keys import refusal
from reports import drawn as drawn
from reports import report, table_of

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.commands import sweep as job
from lm2_jax.config import files, source
from lm2_jax.errors import UserError
from lm2_jax.eval import perplexity
from lm2_jax.eval.perplexity import Measured
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import perplexity_comparison as comparison
from lm2_jax.report.table import Table
from lm2_jax.runtime.console import Console

CONFIG = '''
from ml_collections import ConfigDict

RUNS = {"wide": 64, "narrow": 32}


def get_config(name):
    config = ConfigDict()
    config.model = dict(embed_dim=RUNS[name], vocab_size=50, memory=dict(num_layers=1))
    config.data = dict(source="corpus", corpora=("shards/x",))
    config.train = dict(num_steps=4)
    config.eval = dict(lengths=())
    return config
'''
LOSSES = {("wide", 0): 1.0, ("wide", 1): 2.0, ("narrow", 0): 3.0}  # nats a token


@pytest.fixture
def trained(tmp_path):
    """A sweep's folder with what its runs leave; the config of the sweep; its trials."""
    path = tmp_path / "own.py"
    path.write_text(CONFIG)
    trials = job.make_trials(str(path), ["wide", "narrow"], [0, 1], tmp_path / "out", {})
    for trial in trials:
        if (trial.name, trial.seed) in LOSSES:
            loss, folder = LOSSES[trial.name, trial.seed], trial.workdir / "eval" / "perplexity"
            folder.mkdir(parents=True)
            workdirs.store_config(trial.config, trial.workdir)
            sizes = np.array([10, 6])
            measured = [Measured({"carried": loss * sizes + i, "reset": (loss + 0.5) * sizes + i},
                                 sizes, sizes / 2, sizes * 4.0, i) for i in (-1, 1)]
            perplexity.write_rows(folder, perplexity.rows("shards/x", measured))
            perplexity.write_sums(folder, perplexity.sums("shards/x", measured))
            (folder / "provenance.json").write_text(json.dumps(
                {"step": 4, "parameters": 1234, "config": files.to_dict(trial.config)}))
            lines = [*({"step": step, "tokens": 100} for step in range(1, 5)),
                     {"step": 2, "held_out_loss": loss + 1}, {"step": 4, "held_out_loss": loss}]
            (trial.workdir / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "out", str(path), trials


def test_a_sweep_has_a_table_and_a_figure_of_perplexity(trained):
    out, config, trials = trained
    assert [trial.job.is_done() for trial in trials] == [True, True, True, False]
    console = Console(file=io.StringIO(), width=200)

    def fails(job):
        raise OSError("no more runs")

    job.sweep(trials[:3], ["wide", "narrow"], config, out, 1, fails, console)
    page = (out / "sweep.md").read_text()
    wide, narrow = table_of(page[page.index("## Held-out"):], "name")
    assert (wide["name"], wide["seeds"], wide["nats a token"]) == (
        "wide", "2", "1.5000 (1.0000-2.0000)")
    assert wide["perplexity"] == f"{(np.e + np.e ** 2) / 2:.2f} ({np.e:.2f}-{np.e ** 2:.2f})"
    assert narrow["bits per byte"] == f"{3 / 4 / np.log(2):.4f}"
    assert narrow["bits per byte, memory wiped"] == f"{3.5 / 4 / np.log(2):.4f}"
    # The documents differ, and the runs on each of them by the same.
    over = "nats a token, minus wide's"
    assert (wide[over], narrow[over]) == ("-", "+1.5000 ± 0.0000")
    assert "its 95 % interval is over documents" in page
    assert narrow["nats a token saved by carrying"] == "0.5000" and "1,234" in narrow["parameters"]
    assert "(held_out.png)" in page and "Exact match" not in page
    assert (out / "held_out.png").exists()
    stored = json.loads((out / "sweep.json").read_text())["runs"][0]
    assert stored["perplexity"][-1]["loss"] == 1.5 and stored["held_out"] == [[200, 2], [400, 1]]
    # A seed that an earlier version evaluated, or a damaged file, leaves no wrong difference.
    assert (trials[2].name, trials[2].seed) == ("wide", 1)
    (trials[2].workdir / "eval/perplexity" / perplexity.DOCUMENTS).unlink()
    job.sweep(trials[:3], ["wide", "narrow"], config, out, 1, fails, console)
    assert over not in (out / "sweep.md").read_text()
    (trials[2].workdir / "eval/perplexity" / perplexity.DOCUMENTS).write_text("[{}")
    with pytest.raises(UserError, match="documents.json does not hold a list of results"):
        perplexity.read_sums(trials[2].workdir / "eval/perplexity")
    # What was interrupted is evaluated anew.
    (trials[0].workdir / "eval/perplexity/unfinished.jsonl").write_text("")
    assert not trials[0].job.is_done()


def test_a_report_of_perplexity_alone(trained, drawn, tmp_path):
    folders = [trial.workdir for trial in trained[2][:3]]
    page, printed = report(tmp_path, *folders, names=("small", "large"))
    rows = table_of(page, "name")
    assert [(row["name"], row["seeds"]) for row in rows] == [("small", "2"), ("large", "1")]
    axes = drawn["held_out.png"].axes[0]
    assert isinstance(axes, matplotlib.axes.Axes)
    np.testing.assert_allclose([line.get_xydata() for line in axes.lines],
                               [[[200, 2.5], [400, 1.5]], [[200, 4], [400, 3]]])
    assert "1.5000 (1.0000-2.0000)" in printed


def test_a_narrow_terminal_shows_fewer_columns():
    table = Table(["name", "less\nso", "value"], [[["a", "1" * 9, "2"]]])
    assert table.width == 6 + 11 + 7 and table.fitting(24, "less\nso") == table
    assert table.fitting(23, "less\nso").sections == [[["a", "2"]]]


def test_the_curve_counts_the_tokens_up_to_each_step():
    lines = [{"step": 1, "tokens": 5}, {"step": 2, "tokens": 7}, {"step": 2, "x": 1.0},
             {"step": 3, "tokens": 9}, {"step": 3, "x": 0.5}]
    assert comparison.curve(lines, "x") == [(12, 1.0), (21, 0.5)]
    assert comparison.curve(lines, "y") == []


def test_runs_of_ablation_blocks_have_equal_parameters():
    names, mesh = source.runs("ablation_blocks"), partition.make_mesh({}, 1)
    configs = {name: files.load_config(f"ablation_blocks:{name}") for name in names}
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(abstract_params(LanguageModel(
        dataclasses.replace(config.model, vocab_size=2048)), mesh)))
        for name, config in configs.items()}
    assert max(counts.values()) / min(counts.values()) < 1.005
    assert [config.model.memory.num_layers for config in configs.values()] == [0, 1, 6, 12, 16, 0]
    for config in configs.values():
        changed = files.differences(configs["blocks_16"], config)
        assert all(line.startswith(("model.mlp_dim", "model.memory.num_layers", "model.rope_theta",
                                    "model.attention_window")) for line in changed)
        ((_, segments, rows),) = config.data.curriculum
        assert config.train.num_steps * segments * rows * config.model.segment_length == 2_048_000
    assert configs["llama"].model.attention_window == (segments - 1) * config.model.segment_length
    assert "there is no run x; the runs are blocks_0" in refusal({}, "ablation_blocks:x")
