"""`lm2 bench step`: what is measured, in turns, and the table."""

import io
import json
import sys

import pytest

from lm2_jax.bench import step, torch_process
from lm2_jax.bench.step import Step, table
from lm2_jax.config import files
from lm2_jax.errors import UserError
from lm2_jax.runtime.console import Console
from lm2_jax.training.clock import flops_per_token

TINY = {"model.vocab_size": 64, "model.embed_dim": 16, "model.num_layers": 1, "model.mlp_dim": 16,
        "model.memory.num_layers": 1, "model.segment_length": 8, "train.batch_size": 2,
        "data.curriculum": "((0,1),(5,1,3))"}
# In the place of a Python with torch: it answers what `torch_llama` would.
RIVAL = """#!{python}
import json, sys
options = json.loads(sys.argv[2])
assert options["work"] == "train" and options["hidden_size"] == 16
assert options["options"]["rows"] == 3 and options["options"]["tokens"] == 8
print(json.dumps(dict(parameters=7)), flush=True)
for line in sys.stdin:
    print(0.25, flush=True)
"""


def measure(out, **options):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    return step.run(files.load_config("tiny", TINY), "tiny", out=out, console=console,
                    **dict(remat=False, torch_python="", repeats=2) | options)


@pytest.mark.slow
def test_model_and_backbone_and_another_library_take_turns(tmp_path, monkeypatch,
                                                           compiled_quickly):
    rival = tmp_path / "python"
    rival.write_text(RIVAL.format(python=sys.executable))
    rival.chmod(0o755)
    steps = measure(tmp_path / "out", torch_python=str(rival))
    assert [one.name for one in steps] == ["as configured", "without the memory", "torch, eager",
                                           "torch, compiled"]
    config = files.load_config("tiny", TINY)
    assert steps[0].flops == 24 * flops_per_token(config.model) > steps[1].flops
    assert steps[1].flops == steps[2].flops
    assert steps[0].memory > steps[1].memory > 0 and steps[2].memory is None
    assert steps[2].seconds == [0.25, 0.25] and min(steps[0].seconds) > 0
    stored = json.loads((tmp_path / "out" / "step.json").read_text())
    assert stored["steps"][0]["seconds"] == steps[0].seconds and stored["rows"] == 3
    assert "tiny on one cpu" in (tmp_path / "out" / "step.md").read_text()


def test_every_way_to_rematerialise_is_named():
    names = [name for name, _ in step._ways(files.load_config("tiny", TINY), remat=True)]
    assert names[2:] == ["remat none", "remat none and segments", "remat dots",
                         "remat dots and segments", "remat full", "remat full and segments"]


def test_the_table_has_ratios_with_their_spread():
    rows = table([Step("a", 5, 4e9, 2_000_000, 3.0, [2.0, 4.0, 1.0]),
                  Step("b", 6, 2e9, None, None, [1.0, 1.0, 2.0])]).sections[0]
    assert rows[1] == ["b", "6", "2.0", "0.50", "1,000.0", "1,000.0", "2,000.0", "0.50 (0.25-2.00)",
                       "2.0", "-", "-"]


def test_what_cannot_be_measured_is_refused(tmp_path, compiled_quickly):
    with pytest.raises(UserError, match="--repeats is 0"):
        measure(tmp_path, repeats=0)


def test_another_python_that_fails_is_named(tmp_path):
    model = files.load_config("tiny", TINY).model
    for python, error in ((str(tmp_path / "nothing"), "nothing: No such file"),
                          (sys.executable, "ended at once|No module named")):
        with pytest.raises(UserError, match=error), torch_process.llama(python, model, "tune"):
            pass
