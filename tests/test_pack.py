"""`lm2 pack` and `lm2 unpack`: a run goes on elsewhere, with rounded parameters and new moments."""

import json
import zipfile

import jax
import jax.numpy as jnp
import kill_train
import numpy as np
import optax
import pytest
import runs

import lm2_jax
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import TrainConfig
from lm2_jax.training import optimizer

STEP, LAST = 36, 40


@pytest.mark.processes
@pytest.mark.slow
def test_the_next_piece_goes_on_where_the_run_was(finished, tmp_path):
    file, workdir = tmp_path / "run.npz", tmp_path / "elsewhere"
    assert main(["pack", f"--workdir={finished}", f"--step={STEP}", f"--out={file}"]) == 0
    assert main(["unpack", str(file), f"--workdir={workdir}"]) == 0
    (_, old, _), (_, new, step) = (lm2_jax.load_checkpoint(path, STEP)
                                   for path in (finished, workdir))
    assert step == STEP
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(
        np.asarray(a).astype(jnp.bfloat16).astype(np.float32), b), old, new)
    assert Checkpointer(workdir).meta(STEP) == Checkpointer(finished).meta(STEP)
    size = sum(leaf.size for leaf in jax.tree.leaves(old))
    assert file.stat().st_size < 2 * size + 200_000

    run = runs.lm2("train", workdir, "--config.eval.lengths=()")
    assert run.returncode == 0, run.stderr
    assert f"after step {STEP}" in run.stdout
    whole, parts = kill_train.lines(finished), kill_train.lines(workdir)
    assert parts[:STEP] == whole[:STEP]
    for key in ("step", "segments", "tokens"):
        assert [line[key] for line in parts] == [line[key] for line in whole]
    # The same batch, and parameters that differ by rounding.
    assert parts[STEP]["loss"] == pytest.approx(whole[STEP]["loss"], rel=0.02)
    config = lm2_jax.load_config("tiny").train
    rising = np.arange(1, LAST - STEP + 1) / (config.warmup_steps + 1)
    np.testing.assert_allclose(
        [line["learning_rate"] for line in parts[STEP:]],
        rising * [line["learning_rate"] for line in whole[STEP:]], rtol=1e-4)
    # Two pieces that did nothing leave a file of the same parameters.
    again = tmp_path / "again.npz"
    assert main(["pack", f"--workdir={workdir}", f"--step={STEP}", f"--out={again}"]) == 0
    with np.load(file) as first, np.load(again) as second:
        names = [name for name in first.files if name.startswith("params/")]
        assert names and all(np.array_equal(first[name], second[name]) for name in names)


@pytest.mark.processes
def test_mistakes_are_one_line_and_leave_no_run(finished, tmp_path, capsys):
    file, damaged, run = tmp_path / "run.npz", tmp_path / "damaged", tmp_path / "run"
    assert main(["pack", f"--workdir={finished}", f"--out={file}"]) == 0
    before = json.loads((finished / "config.json").read_text())
    damaged.write_bytes(file.read_bytes()[:-1000])
    other = tmp_path / "other"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = json.dumps(before | {"model": before["model"] | {"mlp_dim": 8}}).encode()
            new.writestr(name, content)
    capsys.readouterr()
    for source, workdir, wanted in ((file, finished, "holds a run already"),
                                    (other, run, "was written by another version"),
                                    (damaged, run, "is not a run written by `lm2 pack`"),
                                    (tmp_path / "none", run, "there is no file")):
        assert main(["unpack", str(source), f"--workdir={workdir}"]) == 2
        line, = capsys.readouterr().err.splitlines()
        assert wanted in line
    assert not run.exists() and [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert json.loads((finished / "config.json").read_text()) == before


@pytest.mark.parametrize("warmup,step", [(4, 50), (0, 50), (4, 2)])
def test_the_learning_rate_rises_again_with_new_moments(warmup, step):
    """Adam's updates of a constant gradient are the learning rate times its sign."""
    config = TrainConfig(num_steps=100, warmup_steps=warmup, weight_decay=0.0, clip_norm=1e9)
    tx, params = optimizer.make(config), {"kernel": jnp.array([1.0, -2.0])}
    state = optimizer.at_step(tx.init(params), step)
    rate = optimizer.learning_rate(config)
    for taken in range(8):
        wanted = rate(step + taken) * min(1.0, (taken + 1) / (warmup + 1))
        assert optimizer.second_warmup(config, state) * rate(step + taken) == pytest.approx(
            float(wanted))
        updates, state = tx.update({"kernel": jnp.array([3.0, -0.5])}, state, params)
        np.testing.assert_allclose(updates["kernel"], [-wanted, wanted], rtol=1e-4)


def test_a_run_in_one_piece_warms_up_once():
    config = TrainConfig(num_steps=20, warmup_steps=3)
    tx, params = optimizer.make(config), {"kernel": jnp.ones(2)}
    state = tx.init(params)
    for _ in range(6):
        assert optimizer.second_warmup(config, state) == 1
        _, state = tx.update(params, state, params)
    assert optimizer.second_warmup(config, optax.sgd(0.1).init(params)) == 1  # the caller's own
