"""Runs that are killed, taken up again, made longer, or refused."""

import contextlib
import json
import shutil
import signal
import subprocess
import time

import jax
import kill_train
import numpy as np
import pytest
import runs

import lm2_jax
from lm2_jax.cli import main

KILLS = 3


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    return runs.finished(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_killed_run_ends_as_if_nothing_had_happened(finished, tmp_path):
    report = kill_train.run(tmp_path, KILLS, seed=1, alone=finished)
    assert report.good and len(report.kills) == KILLS
    assert any(kill.in_save for kill in report.kills)
    segments = [line["segments"] for line in kill_train.lines(finished)]
    assert segments.index(2) < 35 and segments == sorted(segments)  # a stage ended early
    assert all(kill.step < kill_train.num_steps(KILLS) for kill in report.kills)


def test_a_finished_run_can_be_made_longer_and_evaluated_otherwise(finished, copy):
    first = kill_train.num_steps(KILLS)
    run = runs.lm2("train", copy, f"--config.train.num_steps={first + 6}",
                   "--config.eval.lengths=0k,144", "--config.eval.memory=carried",
                   "--config.checkpoint.every_steps=100")
    assert run.returncode == 0, run.stderr
    assert f"after step {first}" in run.stdout
    before, after = kill_train.lines(finished), kill_train.lines(copy)
    assert after[:first] == before
    assert [line["step"] for line in after] == list(range(1, first + 7))
    assert kill_train.checkpoints(copy)[-1] == first + 6
    rows = json.loads((copy / "eval" / "results.json").read_text())
    assert [(row["length"], row["memory"]) for row in rows] == [
        ("0k", "carried"), ("144", "carried")]
    (_, old, _), (_, new, step) = map(lm2_jax.load_checkpoint, (finished, copy))
    assert step == first + 6
    assert all(np.any(np.asarray(a) != b) for a, b in zip(jax.tree.leaves(old),
                                                          jax.tree.leaves(new), strict=True))


def test_a_killed_evaluation_goes_on_where_it_was(finished, tmp_path):
    alone, killed = (shutil.copytree(finished, tmp_path / name) for name in ("alone", "killed"))
    asked = "--config.eval.num_samples=24", "--config.eval.lengths=96,8k"
    assert runs.lm2("eval", alone, *asked).returncode == 0
    journal = killed / "eval" / "unfinished.jsonl"
    process = runs.start("eval", killed, *asked, stdout=subprocess.DEVNULL)
    while process.poll() is None and answered(journal) < 4:  # in the second cell
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and 4 <= answered(journal) < 12
    before = journal.read_text().split("\n")[:-1]  # the last line may be cut short
    process = runs.start("eval", killed, *asked, stdout=subprocess.DEVNULL)
    with contextlib.suppress(FileNotFoundError):  # it goes when all is answered
        while process.poll() is None:
            now = journal.read_text().split("\n")
            assert now[:len(before)] == before  # taken over, never asked again
            time.sleep(0.01)
    assert process.wait() == 0 and not journal.exists()
    assert contents(killed / "eval") == contents(alone / "eval")


def answered(journal):
    """Batches."""
    return max(0, journal.read_text().count("\n") - 1) if journal.exists() else 0


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overrides,wanted", [
    (["model.embed_dim=64"], ["model.embed_dim: 32 -> 64"]),
    (["model.memory.num_slots=5", "train.learning_rate=0.1"],
     ["model.memory.num_slots: 4 -> 5", "train.learning_rate: 0.005 -> 0.1"]),
    (["seed=3"], ["seed: 0 -> 3"]),
    (["data.curriculum=((0,2),)"], ["data.curriculum: [[0, 1], [35, 2]] -> [[0, 2]]"]),
    (["train.accumulate_steps=2", "mesh.tensor=2"],  # the mesh may differ
     ["train.accumulate_steps: 1 -> 2"]),
])
def test_the_workdir_of_another_config_is_refused(finished, capsys, overrides, wanted):
    before = contents(finished)
    assert main(["train", runs.CONFIG, f"--workdir={finished}", *runs.SMALL,
                 *(f"--config.{override}" for override in overrides)]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("lm2 train: ") and str(finished) in line
    assert all(difference in line for difference in wanted)
    assert line.count(" -> ") == len(wanted) + 1 + ("embed_dim" in line)  # head_dim follows it
    assert contents(finished) == before
