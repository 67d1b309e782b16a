"""Runs that are killed, resumed, made longer, or refused."""

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
from lm2_jax.data.babilong import batches
from lm2_jax.eval.journal import Journal
from lm2_jax.runtime.preemption import Preemption

# Compiled as in the processes, so that what those have compiled is found.
pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("compiled_quickly")]

KILLS, EVERY = 3, 4  # EVERY: steps between two saves (runs.SMALL)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_killed_run_ends_like_an_uninterrupted_one(finished, tmp_path):
    report = kill_train.run(tmp_path, KILLS, seed=1, alone=finished)
    assert report.good and len(report.kills) == KILLS
    assert any(kill.in_save for kill in report.kills)
    assert all(kill.lost <= 2 * EVERY for kill in report.kills)  # a save may still be under way
    segments = [line["segments"] for line in kill_train.lines(finished)]
    assert segments.index(2) < 35 and segments == sorted(segments)  # a stage ended early
    assert all(kill.step < kill_train.num_steps(KILLS) for kill in report.kills)


def test_sigterm_saves_and_ends_and_a_second_run_is_refused(finished, tmp_path, capsys):
    workdir, steps = tmp_path / "run", f"--config.train.num_steps={kill_train.num_steps(KILLS)}"
    process = runs.start("train", workdir, steps, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and kill_train.last_step(workdir) < 6:
        time.sleep(0.005)
    assert main(["train", runs.CONFIG, f"--workdir={workdir}", *runs.SMALL, steps]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert f"{workdir} is in use by lm2 train on " in line and f"pid {process.pid}" in line
    process.terminate()
    run = runs.ended(process)
    assert run.returncode == 0 and not run.stderr, run.stderr
    step = kill_train.last_step(workdir)
    assert f"SIGTERM: saved at step {step}; the same command resumes" in run.stdout
    assert kill_train.checkpoints(workdir)[-1] == step < kill_train.num_steps(KILLS)
    assert not (workdir / "eval" / "results.json").exists()
    # From there it would go on as after a kill.
    assert [line["loss"] for line in kill_train.lines(workdir)] == [
        line["loss"] for line in kill_train.lines(finished)[:step]]


def test_a_finished_run_can_be_made_longer_with_another_evaluation(finished, copy):
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


@pytest.mark.slow
def test_a_killed_evaluation_is_resumed(finished, tmp_path):
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
            for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_an_evaluation_stopped_by_sigterm_is_resumed(finished, copy, monkeypatch,
                                                                  capsys):
    asked = [f"--workdir={copy}", *runs.SMALL, "--config.eval.lengths=96",
             "--config.eval.num_samples=20"]
    questions = iter([False, True])
    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "reached", lambda self: next(questions))
        assert main(["eval", runs.CONFIG, *asked]) == 143
    assert "the same command resumes there" in capsys.readouterr().err
    journal = copy / "eval" / "unfinished.jsonl"
    assert answered(journal) == 2
    given, add = [], Journal.add
    monkeypatch.setattr(Journal, "add", lambda *args: given.append(args[1]) or add(*args))
    assert main(["eval", runs.CONFIG, *asked]) == 0
    assert [mode for _, _, mode in given] == ["carried", *3 * ["reset"]] and not journal.exists()


def test_a_resume_that_is_refused_leaves_the_workdir_as_it_was(copy, monkeypatch, capsys):
    """Other data are detected late, from the checkpoint, when the config must not be stored yet."""
    before = contents(copy)
    monkeypatch.setattr(batches.BabilongBatches, "digest", lambda source: "other")
    assert main(["train", runs.CONFIG, f"--workdir={copy}", *runs.SMALL,
                 "--config.train.num_steps=99"]) == 2
    assert "was made with other data" in capsys.readouterr().err
    assert contents(copy) == before


def test_a_run_whose_tokenizer_was_replaced_is_refused(copy, capsys):
    """The other tokenizer has as many words, two of them exchanged."""
    path = copy / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocab = stored["model"]["vocab"]
    words = [word for word in vocab if word.isalpha()]
    vocab[words[0]], vocab[words[1]] = vocab[words[1]], vocab[words[0]]
    path.write_text(json.dumps(stored))
    before = contents(copy)
    assert main(["train", runs.CONFIG, f"--workdir={copy}", *runs.SMALL,
                 "--config.train.num_steps=99", "--accept-changes"]) == 2
    assert "was made with other tokenizer" in capsys.readouterr().err
    assert contents(copy) == before


@pytest.mark.slow
def test_changes_are_accepted_with_a_flag_and_their_cost_is_printed(finished, copy):
    first = kill_train.num_steps(KILLS)
    changed = (f"--config.train.num_steps={first + 2}", "--config.seed=3",
               "--config.train.batch_size=16", "--config.data.curriculum=((0,2),)",
               "--config.eval.memory=carried")
    run = runs.lm2("train", copy, *changed, "--accept-changes")
    assert run.returncode == 0, run.stderr
    said, = [line for line in run.stdout.splitlines() if line.startswith("accepted after step")]
    assert said.startswith(f"accepted after step {first}: ") and "seed: 0 -> 3" in said
    assert "train.batch_size: 8 -> 16" in said and "What is lost: " in said
    before, = (copy / "config.before.jsonl").read_text().splitlines()
    assert json.loads(before) == json.loads((finished / "config.json").read_text())
    lines = kill_train.lines(copy)
    assert [line["step"] for line in lines] == list(range(1, first + 3))
    assert lines[-1]["tokens"] > 1.5 * lines[first - 1]["tokens"]


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another_model(finished, tmp_path, capsys):
    """The tokenizer is copied too; parameters of another shape are refused."""
    run = runs.lm2("train", tmp_path / "run", "--config.train.num_steps=1", "--profile=1:1",
                   "--config.model.num_layers=1", "--config.model.memory.num_layers=0",
                   "--config.train.eval_every_steps=0", "--config.eval.memory=carried",
                   "--config.eval.lengths=96", f"--init-from={finished}:36")
    assert run.returncode == 0, run.stderr
    assert f"starting from the weights of {finished} at step 36" in run.stdout
    unused, = [line for line in run.stdout.splitlines()
               if line.startswith("in the source but not used: ")]
    assert "/memory/forget_gate/bias" in unused and "block 1/mlp/up_proj/kernel" in unused
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert (tmp_path / "run/tokenizer.json").read_text() == (finished /
                                                             "tokenizer.json").read_text()
    assert main(["train", runs.CONFIG, f"--workdir={tmp_path / 'other'}", *runs.SMALL,
                 "--config.model.mlp_dim=32", f"--init-from={finished}"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert "shapes differ (source -> new): block" in line
    assert "[32, 64] -> [32, 32]" in line


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
