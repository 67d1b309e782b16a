"""`lm2 bench attention`: a table of kernels by length."""

import json

import pytest

from lm2_jax import cli


@pytest.mark.usefixtures("compiled_quickly")
def test_kernels_are_compared_with_the_first_of_their_length(tmp_path, capsys):
    options = ["bench", "attention", "--lengths=8", "--heads=1", "--head-dim=8", "--repeats=2",
               f"--out={tmp_path}"]
    assert cli.main(options) == 0
    rows = json.loads((tmp_path / "attention.json").read_text())["rows"]
    assert [(row["use"], row["length"], row["implementation"]) for row in rows] == [
        (use, 8, kernel) for use in ("attention", "write") for kernel in ("xla", "chunked")]
    for row in rows:
        assert len(row["forward"]) == len(row["both"]) == 2 and row["temporaries"] > 0
    assert (tmp_path / "attention.md").read_text().count("| 1.00 |") >= 2


@pytest.mark.parametrize("option,said", [
    ("--implementations=flash", "must be of auto, xla, chunked"), ("--rows=0", "1 at least"),
    ("--lengths=8,x", "must be numbers")])
def test_a_mistake_is_one_line(capsys, option, said):
    assert cli.main(["bench", "attention", option]) == 2
    assert said in capsys.readouterr().err
