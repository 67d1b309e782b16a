"""`lm2 bench bptt`: memory by the number of segments, and the most that fit."""

import json

import pytest

from lm2_jax import cli
from lm2_jax.bench import bptt
from lm2_jax.config.files import load_config

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL = ["bench", "bptt", "--config=tiny", "--config.model.vocab_size=256", "--topology=cpu:2",
         "--config.mesh.data=2", "--config.model.memory.num_slots=512",
         "--config.train.remat_segments=true"]


def test_the_longest_is_where_the_line_meets_the_memory():
    row = bptt.Row("v", "t", {"data": 1}, 10, 1000, {2: 300, 4: 400, 8: 601}, "0", "d")
    assert (row.per_segment, row.longest) == (50, 16)
    assert bptt.Row("v", "t", {}, 10, 100, {2: 300, 4: 400}, "0", "d").longest == 0


@pytest.mark.slow
def test_a_segment_adds_its_banks(tmp_path):
    """XLA keeps no bfloat16 in the loops of a CPU. Rows of other topologies stay in the table."""
    assert cli.main([*SMALL, "--memory=0.5", "--segments=8,16", f"--out={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "bptt.json").read_text())
    assert [row["variant"] for row in rows] == list(bptt.VARIANTS)
    row = bptt.Row(**rows[0] | {"peaks": {int(k): peak for k, peak in rows[0]["peaks"].items()}})
    model = load_config("tiny").model
    banks = 4 * model.memory.num_layers * 512 * model.embed_dim
    assert banks <= row.per_segment < 1.5 * banks
    assert row.memory == 5 * 10**8 and row.longest > 1000
    (tmp_path / "bptt.json").write_text(json.dumps(
        [one | {"topology": "v5e:4x4"} for one in rows]))
    kept = bptt.read_rows(tmp_path / "bptt.json")
    assert "| v5e:4x4 | 2 x 1 x 1 | banks in bfloat16 |" in bptt.table(kept).markdown()


@pytest.mark.parametrize("options,said", [
    (["--segments=2"], "two different numbers"), (["--segments=2,x"], "must be numbers"),
    ([], "the memory of cpu:2 is not known")])
def test_a_mistake_is_one_line(capsys, options, said):
    assert cli.main([*SMALL, *options]) == 2
    assert said in capsys.readouterr().err
