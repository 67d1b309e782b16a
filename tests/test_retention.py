"""Which checkpoints are kept, by a run and by hand."""

import shutil

import pytest
from states import MESHES, random_bits, saved

from lm2_jax.checkpoint import inventory, retention
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig, Config
from lm2_jax.runtime import locks

LOSS = {4: 3.0, 5: 1.0, 8: 2.0, 10: float("nan"), 12: 4.0}


def kept(**options):
    config = CheckpointConfig(**{"keep": 1} | options)
    return {step: why for step, why in retention.reasons(config, sorted(LOSS), lambda step: {
        "loss": LOSS[step], "exact_match": LOSS[step]} if step != 8 else {}).items() if why}


def test_the_newest():
    assert kept() == {12: ["newest"]}
    assert kept(keep=9).keys() == LOSS.keys()


def test_every_nth_for_ever():
    assert kept(keep_every=4) == {4: ["every 4"], 8: ["every 4"], 12: ["newest", "every 4"]}


def test_the_best_by_a_metric():
    """A step at which it was not measured, or that was not finite, is never the best."""
    assert kept(keep_best=1) == {5: ["best loss"], 12: ["newest"]}
    assert kept(keep_best=9).keys() == {4, 5, 12}
    assert kept(keep_best=1, best_metric="exact_match") == {12: ["newest", "best exact_match"]}


def test_a_run_keeps_what_it_should_across_restarts(tmp_path):
    options = dict(keep=1, keep_every=4, keep_best=1)
    state = random_bits(1, MESHES[0])
    for steps in ((3, 4, 5), (6, 7, 8), (9,)):
        checkpointer = Checkpointer(tmp_path, CheckpointConfig(**options))
        for step in steps:
            checkpointer.save(step, *state, {}, {"loss": abs(step - 6.2)})
            checkpointer.wait()
        checkpointer.close()
    assert checkpointer.steps() == [4, 6, 8, 9]
    found = {entry.step: entry for entry in inventory.entries(
        checkpointer, CheckpointConfig(**options))}
    assert found[6].kept_as == ["best loss"] and found[9].kept_as == ["newest"]
    assert found[9].metrics == {"loss": pytest.approx(2.8)} and found[9].bytes > 1000


def test_a_metric_that_is_never_measured_is_refused():
    with pytest.raises(ValueError, match="train.eval_every_steps is 0; .*held_out_loss is measur"):
        Config(checkpoint=CheckpointConfig(keep_best=1, best_metric="held_out_loss"))
    with pytest.raises(ValueError, match="best_metric is 'acc'; it must be one of loss, "):
        CheckpointConfig(best_metric="acc")


# By hand.

@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three")
    workdirs.store_config(Config(), workdir)
    saved(workdir, [2, 4, 6]).close()
    return workdir


@pytest.fixture
def workdir(three_steps, tmp_path):
    return shutil.copytree(three_steps, tmp_path / "run")


def call(*arguments):
    return main(["checkpoints", *map(str, arguments)])


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_they_are_listed_and_verified(workdir, capsys):
    assert call(workdir) == 0 and call(workdir, "--verify") == 0
    out = capsys.readouterr().out
    assert out.count("newest") == 6 and out.count("verified") == 3 and out.count("complete") == 3
    meta = workdir / "checkpoints" / "4" / "meta" / "metadata"
    meta.write_text(meta.read_text() + " ")
    (workdir / "checkpoints" / "6" / "commit_success.txt").unlink()
    shutil.copytree(workdir / "checkpoints" / "2", workdir / "checkpoints" / "3")
    (workdir / "checkpoints" / "3" / "checksums.json").unlink()
    assert call(workdir, "--verify") == 1
    lines = capsys.readouterr().out.splitlines()
    state = {step: next(line for line in lines if line.startswith(f"{step} ")) for step in "2346"}
    assert "verified" in state["2"] and "is not complete" in state["6"]
    assert "meta/metadata has 17 bytes" in state["4"] and "checksums.json is missing" in state["3"]


def test_they_are_deleted(workdir, capsys):
    assert call(workdir, "--delete=2,4") == 0
    assert names(workdir) == ["6"]
    for arguments, status, wanted in [
            (["--delete=6"], 2, "the newest checkpoint that is intact"),
            (["--delete=5"], 2, "has no checkpoint of step 5; it has 6"),
            (["--delete=x"], 2, "--delete is 'x'"), (["--delete=6", "--force"], 0, "")]:
        capsys.readouterr()
        assert call(workdir, *arguments) == status
        assert wanted in capsys.readouterr().err
        assert names(workdir) == ["6"] * (status != 0)


def test_the_one_that_the_run_resumes_from_is_the_newest_intact_one(workdir, capsys):
    (workdir / "checkpoints" / "6" / "params" / "commit_success.txt").unlink()
    assert call(workdir, "--delete=2,4") == 2
    assert "step 4 is the newest" in capsys.readouterr().err
    assert call(workdir, "--delete=6") == 0 and names(workdir) == ["2", "4"]


def test_none_is_deleted_while_a_run_is_there(workdir, capsys):
    with locks.locked(workdir, "lm2 train"):
        assert call(workdir, "--delete=2") == 2
        assert call(workdir, "--verify") == 0
    assert "in use by lm2 train" in capsys.readouterr().err and names(workdir) == ["2", "4", "6"]


def test_a_deletion_that_was_interrupted_leaves_no_step(workdir, monkeypatch):
    folder = Checkpointer(workdir)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    folder.remove_step(2)
    monkeypatch.undo()
    assert folder.steps() == [4, 6] and "2.deleting" in names(workdir)
    saved(workdir, [8]).close()
    assert names(workdir) == ["4", "6", "8"]
