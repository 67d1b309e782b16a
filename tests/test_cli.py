"""The command line from the outside: what a run leaves behind, and mistakes in one line each."""

import csv
import errno
import itertools
import json
import re
import shutil
from pathlib import Path

import jax
import kill_train
import numpy as np
import pytest
import runs

import lm2_jax
from lm2_jax.cli import main
from lm2_jax.config import DataConfig
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import RunError, UserError
from lm2_jax.eval import metrics
from lm2_jax.runtime import locks

TUNED = "instruction_no_examples_no_post_prompt_no_chat_template_no"
SMALL = [runs.CONFIG, *runs.SMALL]
# As the runs of processes of their own, so that what those have compiled is found.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


def call(*arguments):
    """The exit status; argparse leaves by an exception."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code


# Help and mistakes.

@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"]], ids=str)
def test_help_lists_the_commands(arguments, capsys):
    assert call(*arguments) == 0
    out, err = capsys.readouterr()
    assert not err and all(f"\n    {name} " in out for name in (
        "train", "sweep", "eval", "report", "data", "bench", "gates", "analyze", "compile",
        "generate", "read"))


def test_help_shows_the_readmes_way_from_a_llama_to_a_memory(capsys):
    def commands(text):
        lines = text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split(" #")[0].split()) for line in lines]

    assert call("help") == 0
    shown = capsys.readouterr().out
    way = [line for line in commands(shown[shown.index("From a Llama"):]) if line[:4] == "lm2 "]
    assert [line.split(" -")[0].removeprefix("lm2 ") for line in way] == [
        "data tokenize TEXTS", "convert from-hf LLAMA", "train", "convert to-hf OUT"]
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert set(way) <= set(commands(readme))


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--help"]], ids=str)
def test_help_lists_the_commands_of_a_group(arguments, capsys):
    assert call(*arguments) == 0
    out, err = capsys.readouterr()
    assert not err and "\n    bench data " in out and "\n    train " not in out


@pytest.mark.parametrize("command", ["train", "eval", "data", "bench eval", "gates",
                                     "analyze", "compile"])
def test_each_command_has_help(command, capsys):
    assert call(*command.split(), "--help") == 0
    out, err = capsys.readouterr()
    assert not err and f"usage: lm2 {command}" in out
    assert "--config" in out and "--config.train.num_steps=20" in out
    if command in ("train", "eval", "gates", "analyze"):
        assert "--workdir" in out
    assert ("--topology" in out) == (command == "compile")


@pytest.mark.parametrize("arguments,wanted", [
    (["trian"], ["lm2: ", "trian", "train", "eval"]),
    (["train"], ["lm2 train: ", "--config", "--workdir"]),
    (["train", runs.CONFIG], ["lm2 train: ", "--workdir"]),
    (["eval", *SMALL], ["lm2 eval: ", "--workdir"]),
    (["eval", *SMALL, "--workdir=W", "--step=ten"], ["lm2 eval: ", "--step", "ten"]),
    (["train", *SMALL, "--workdir=W", "--fast"], ["unknown argument --fast", "--config.KEY=VALUE"]),
    (["train", *SMALL, "--workdir=W", "now"], ["unknown argument now"]),
    (["train", *SMALL, "--workdir=W", "--config.seed", "3"], ["unknown argument --config.seed"]),
    (["train", *SMALL, "--workdir=W", "--confg.seed=3"], ["unknown argument --confg.seed=3"]),
    (["train", "--config=configs/tyni.py", "--workdir=W"], ["configs/tyni.py", "tiny.py"]),
    (["train", "--config=configs", "--workdir=W"], ["no config file configs"]),
    (["train", "--config=tests/runs.py", "--workdir=W"], ["tests/runs.py has no get_config()"]),
    (["train", *SMALL, "--workdir=W", "--config.train.num_step=3"],
     ["unknown key train.num_step", "train.num_steps?"]),
    (["train", *SMALL, "--workdir=W", "--config.model.memory.num_slots=0"],
     ["model.memory.num_slots is 0; it must be at least 1"]),
    (["train", *SMALL, "--workdir=W", "--config.train.num_steps=many"],
     ["train.num_steps is 'many'", "int"]),
    (["train", *SMALL, "--workdir=W", "--config.mesh.tensor=3"], ["tensor=3", "8 devices"]),
    (["train", *SMALL, "--workdir=W", "--config.train.batch_size=12"],
     ["12 rows", "a multiple of 8"]),
    (["train", *SMALL, "--workdir=W", "--config.eval.batch_size=12"],
     ["eval.batch_size is 12", "a multiple of 8"]),
    (["train", *SMALL, "--workdir=W", "--config.data.tasks=qa1,qa99"], ["qa99"]),
    (["train", *SMALL, "--workdir=W", "--config.data.background=nowhere"], ["nowhere"]),
    (["train", *SMALL, "--workdir=W", "--config.data.babi=nowhere"], ["nowhere"]),
    (["train", *SMALL, "--workdir=W", "--config.eval.samples=no.jsonl"], ["no.jsonl"]),
    (["train", *SMALL, "--workdir=W", "--config.eval.lengths=16"],
     ["no story of qa1", "16", "eval.lengths"]),
    (["train", *SMALL, "--workdir=W", "--config.model.segment_length=8"],
     ["no story of qa1", "8 tokens", "model.segment_length"]),
    (["bench", "eval", *SMALL, "--lengths=64k,long"], ["lengths", "'long'", "'1M'"]),
    (["bench", "eval", *SMALL, "--lengths="], ["--lengths names no length"]),
    (["bench", "evil", *SMALL], ["'bench evil'", "bench eval"]),
    (["bench", "eval", "--workdir=W"], ["lm2 bench eval: ", "--config"]),
    (["bench", "decode"], ["--config or --workdir"]),
    (["bench", "decode", *SMALL, "--workdir=W"], ["not both"]),
    (["bench", "decode", *SMALL, "--new=1"], ["--new 1", "2 new"]),
    (["bench", "decode", *SMALL, "--batches=1,x"], ["'1,x'", "as 1,8"]),
    (["eval", *SMALL, "--workdir=W"], ["W holds no run", "lm2 train --config="]),
    (["eval", *SMALL, "--workdir=README.md"], ["README.md"]),
    (["train", *SMALL, "--workdir=README.md"], ["README.md"]),
])
def test_mistakes_are_one_line(arguments, wanted, capsys, tmp_path):
    workdir = tmp_path / "W"
    arguments = [f"--workdir={workdir}" if a == "--workdir=W" else a for a in arguments]
    assert call(*arguments) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("lm2") and all(text in line for text in wanted)
    assert not (workdir / "checkpoints").exists() or arguments[0] == "train"
    assert workdir.exists() <= (arguments[0] == "train")


@pytest.mark.parametrize("error", [ValueError("einsum"), OSError(9, "Bad file descriptor"),
                                   KeyError("key")], ids=repr)
def test_a_programming_error_keeps_its_traceback(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("lm2_jax.commands.data.show", fail)
    with pytest.raises(type(error)) as caught:
        call("data", *SMALL)
    assert caught.traceback[-1].name == "fail"


@pytest.mark.parametrize("error,wanted,status", [
    (UserError("seed is -1"), "seed is -1", 2), (RunError("step 3: loss nan"), "loss nan", 1),
    (OSError(errno.ENOSPC, "No space left on device", "W/x"), "No space left on device: W/x", 2)])
def test_an_error_of_the_users_is_one_line(error, wanted, status, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("lm2_jax.commands.data.show", fail)
    assert call("data", *SMALL) == status
    assert capsys.readouterr().err == f"lm2 data: {wanted if status == 2 else error}\n"


def test_a_step_that_is_not_there(finished, capsys):
    assert call("eval", *SMALL, f"--workdir={finished}", "--step=7") == 2
    line, = capsys.readouterr().err.splitlines()
    assert "has no checkpoint of step 7; it has 32, 36, 40" in line


def test_evaluating_another_model_is_refused(finished, capsys):
    assert call("eval", *SMALL, f"--workdir={finished}", "--config.model.mlp_dim=32") == 2
    line, = capsys.readouterr().err.splitlines()
    assert "model.mlp_dim: 64 -> 32" in line


# What a run leaves behind.

def test_the_config_is_stored_whole(finished):
    config, _, step = lm2_jax.load_checkpoint(finished)
    assert step == 40
    written = lm2_jax.load_config(runs.ROOT / "configs" / "tiny.py", {
        key.removeprefix("--config."): value
        for key, value in (override.split("=") for override in runs.SMALL)})
    stored = json.loads((finished / "config.json").read_text())
    assert stored["model"].pop("vocab_size") == config.model.vocab_size > 0
    assert stored == {**json.loads(json.dumps(lm2_jax.config.files.to_dict(written))),
                      "model": stored["model"]}


def test_metrics_of_every_step(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    for line in lines:
        assert line.keys() >= {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second",
                               "mfu"}
        assert all(value is None or np.isfinite(value) for value in line.values())
        assert line["mfu"] is None  # the peak of a CPU is not known
    assert sum(line["tokens_per_second"] is None for line in lines) <= 1
    assert np.mean([line["loss"] for line in lines[-5:]]) < 0.7 * lines[0]["loss"]
    segments = [line["segments"] for line in lines]
    assert set(segments) == {1, 2} and segments == sorted(segments)


def test_where_the_time_went(finished):
    lines = kill_train.lines(finished)
    times = [{key: line[key] for key in line if key.startswith("seconds_")} for line in lines]
    assert times[0].keys() == {f"seconds_{name}" for name in (
        "start", "compile", "data", "step", "save", "eval", "restart", "down")}
    for before, after in itertools.pairwise(times):
        assert all(before[key] <= after[key] for key in before)
    assert times[-1]["seconds_restart"] == 0 < min(
        times[-1][f"seconds_{name}"] for name in ("start", "compile", "data", "step", "save"))
    assert lines[-1]["goodput"] == pytest.approx(
        times[-1]["seconds_step"] / sum(times[-1].values()), abs=1e-3)
    printed = (finished.parent / "finished.txt").read_text().split("\ntime: ")[1]
    assert "(goodput " in printed.replace("\n", " ")


def test_files_of_a_run(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.json", "metrics.jsonl", "curriculum.jsonl", "tokenizer.json", "tensorboard",
        "checkpoints", "eval", "training.png", "time.json", "starts.jsonl", ".lock"}
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "32", "36", "40"]
    events, = (finished / "tensorboard").glob("events.out.tfevents.*")
    assert events.stat().st_size > 40 * 50
    predictions = {f"qa1_{length}_{TUNED}{suffix}" for length in ("96", "192")
                   for suffix in (".csv", ".json")}
    assert {path.name for path in (finished / "eval").iterdir()} == {
        "results.json", "provenance.json", "history.jsonl", "accuracy.png",
        "reset", ".lock", *predictions}
    assert {path.name for path in (finished / "eval" / "reset").iterdir()} == predictions
    for path in finished.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 2000


def test_results_are_those_of_the_predictions(finished):
    rows = json.loads((finished / "eval" / "results.json").read_text())
    assert [(row["task"], row["length"], row["memory"]) for row in rows] == [
        ("qa1", length, memory) for length in ("96", "192") for memory in ("carried", "reset")]
    for row in rows:
        assert row.keys() == {"task", "length", "tokens", "segments", "memory", "n",
                              "exact_match", "accuracy", "constant_answer", "unscorable"}
        folder = finished / "eval" / ("reset" if row["memory"] == "reset" else "")
        path = folder / f"qa1_{row['length']}_{TUNED}.csv"
        assert "<answer>" in json.loads(path.with_suffix(".json").read_text())["prompt"]["template"]
        with open(path, newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        assert header == ["target", "output", "question"] and len(lines) == row["n"] == 8
        assert row["exact_match"] == np.mean([metrics.exact_match(t, o) for t, o, _ in lines])
        assert row["accuracy"] == np.mean([metrics.babilong_correct("qa1", *line)
                                           for line in lines])
        assert row["constant_answer"] == metrics.constant_answer([t for t, _, _ in lines])[1]
        # Asking leaves out the answer and the end mark.
        assert row["tokens"] == int(row["length"]) - 2
        assert row["segments"] == int(row["length"]) / 48


def test_a_report_of_the_run(finished, tmp_path, capsys):
    assert call("report", finished, f"--out={tmp_path}") == 0
    assert str(tmp_path / "report.md") in capsys.readouterr().out
    _, params, step = lm2_jax.load_checkpoint(finished)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    text = (tmp_path / "report.md").read_text()
    assert f"| finished | 0 | {step} | {size:,} | 96 | {finished} |" in text


def test_history_of_evaluations(finished):
    lines = [json.loads(line)
             for line in (finished / "eval" / "history.jsonl").read_text().splitlines()]
    assert [(line["step"], line["length"], line["n"]) for line in lines] == [
        (20, "96", 2), (20, "192", 2)]


def test_what_a_run_prints(finished):
    printed = (finished.parent / "finished.txt").read_text()
    for text in ("checkpoint.every_steps", "train 40/40  loss ", " tokens  qa1 192 reset: ", "qa1",
                 "192", str(finished / "eval" / "results.json")):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 100 + len(str(finished))


def test_eval_repeats_the_results(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(copy / "eval")
    run = runs.lm2("eval", copy)
    assert run.returncode == 0, run.stderr
    assert "at step 40" in run.stdout and "step 20" not in run.stdout
    for path in finished.glob("eval/**/*"):
        if path.suffix in (".json", ".csv"):
            assert (copy / path.relative_to(finished)).read_bytes() == path.read_bytes()
    for name in ("metrics.jsonl", "config.json", "tokenizer.json"):
        assert (copy / name).read_bytes() == (finished / name).read_bytes()


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in folder.rglob("*")}


def test_eval_with_out_writes_nothing_to_the_workdir(finished, tmp_path, monkeypatch, capsys):
    workdir, out = shutil.copytree(finished, tmp_path / "run"), tmp_path / "new" / "results"
    before, opened = contents(workdir), locks.os.access
    # As a read-only file system is seen; the tests may run as root.
    monkeypatch.setattr(locks.os, "access", lambda path, mode: (
        not Path(path).is_relative_to(workdir) and opened(path, mode)))
    assert call("eval", *SMALL, f"--workdir={workdir}") == 2
    line, = capsys.readouterr().err.splitlines()
    assert "is read-only for this user; take another --out" in line
    assert call("eval", *SMALL, f"--workdir={workdir}", f"--out={out}") == 0
    assert contents(workdir) == before
    assert {path.relative_to(out) for path in out.rglob("*")} == {
        path.relative_to(finished / "eval") for path in finished.glob("eval/**/*")
        if path.name != "history.jsonl"}
    assert str(out / "results.json") in capsys.readouterr().out


@pytest.mark.parametrize("missing", [True, False])
def test_another_tokenizer_is_refused(finished, tmp_path, capsys, missing):
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = workdir / "tokenizer.json"
    if missing:
        path.unlink()
    else:
        corpus.make_tokenizer(DataConfig(background_sentences=99), 7).save(path)
    assert call("eval", *SMALL, f"--workdir={workdir}") == 2
    line, = capsys.readouterr().err.splitlines()
    assert str(path) in line and missing != ("step 40 was trained with" in line)
    assert path.exists() != missing


def test_a_run_that_diverges_stops_and_keeps_what_was_good(tmp_path):
    run = runs.lm2("train", tmp_path / "run", "--config.train.learning_rate=1e15",
                   "--config.checkpoint.every_steps=1")
    assert run.returncode == 1
    line, = [line for line in run.stderr.splitlines() if not line.startswith("WARNING:absl")]
    found = re.fullmatch(r"lm2 train: step (\d+): loss .*; samples \(batch (\d+), rows ([\d, ]+)\)"
                         r"\. Stopped; the checkpoints in .*/run are from before\.", line)
    step = int(found[1])
    assert int(found[2]) == step - 1 and 1 < step < 10
    assert set(map(int, found[3].split(", "))) <= set(range(8))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step))
    _, params, newest = lm2_jax.load_checkpoint(tmp_path / "run")
    assert newest == step - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
