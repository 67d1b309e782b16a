"""`lm2 sweep`: what it trains, what it skips, and the table of its runs."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import runs

from lm2_jax import cli
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.commands import sweep as job
from lm2_jax.config import files, parse_length, with_vocab_size
from lm2_jax.eval.journal import UNFINISHED
from lm2_jax.eval.results import Row, write_results
from lm2_jax.report import comparison_plots
from lm2_jax.runtime import children, locks
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.queue import Queue

CONFIG = '''
from ml_collections import ConfigDict

RUNS = {"wide": 64, "narrow": 32}


def get_config(name):
    config = ConfigDict()
    config.model = dict(embed_dim=RUNS[name], memory=dict(num_layers=1))
    config.train = dict(num_steps=20)
    config.eval = dict(lengths=("96", "192"), num_samples=50, memory=("carried",))
    return config
'''
RATES = {"wide": {"96": (0.9, 0.7, 0.8), "192": (0.6, 0.6, 0.3)},
         "narrow": {"96": (0.5, 0.4, 0.3), "192": (0.2, 0.2, 0.2)}}


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(CONFIG)
    return str(path)


def train(config, name, workdir, step=20):
    """Writes what a trained and evaluated run leaves."""
    config = with_vocab_size(config, 50)
    workdirs.store_config(config, workdir)
    write_results(workdir / "eval", [
        Row("qa1", length, parse_length(length), 2.0, memory, 50,
            RATES[name][length][config.seed] if memory == "carried" else 0.0, None, 0.2)
        for length in config.eval.lengths for memory in ("carried", "reset")])
    (workdir / "eval" / "provenance.json").write_text(json.dumps(
        {"step": step, "parameters": 1234, "config": files.to_dict(config)}))
    (workdir / "metrics.jsonl").write_text("".join(
        f'{{"step": {i}, "tokens": 100}}\n' for i in range(1, step + 1)))
    (workdir / "time.json").write_text('{"step": 20, "seconds": {"step": 30, "eval": 12}}')


class Trained:
    """A process that trained as its command says, unless it is named in `failing`."""

    commands, failing = [], set()

    def __init__(self, command, log):
        name = command[4].rpartition(":")[2]
        self.commands.append(command[3:])
        self.failed = name in self.failing
        if self.failed:
            log.write("lm2 train: no books\n")
            return
        given = dict(word.removeprefix("--").split("=", 1) for word in command[4:])
        workdir = workdirs.Path(given["workdir"])
        workdir.mkdir(parents=True, exist_ok=True)
        train(files.load_config(given["config"], {
            key.removeprefix("config."): value for key, value in given.items()
            if key.startswith("config.")}), name, workdir)

    def poll(self):
        return 2 if self.failed else 0

    def terminate(self):
        pass


@pytest.fixture
def lm2_sweep(own, tmp_path, monkeypatch, capsys):
    """Runs `lm2 sweep` with `Trained` for `lm2 train`; returns status, commands and output."""
    monkeypatch.setattr(children, "has_accelerators", lambda: False)
    monkeypatch.setattr(children, "start", lambda command, log, cores: Trained(command, log))
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(Trained, "failing", set())

    def call(*arguments):
        monkeypatch.setattr(Trained, "commands", [])
        status = cli.main(["sweep", f"--config={own}", f"--out={tmp_path / 'out'}", *arguments])
        said = capsys.readouterr()
        return status, Trained.commands, said.out + said.err
    return call


def table(tmp_path, first):
    """The Markdown table of sweep.md whose header begins so, as lists of cells."""
    text = (tmp_path / "out" / "sweep.md").read_text("utf-8")
    lines = text[text.index(f"\n| {first}") + 1:].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_all_runs_are_trained_and_stand_in_one_table(lm2_sweep, own, tmp_path):
    status, commands, said = lm2_sweep("--seeds=0,1,2", "--config.train.batch_size=4")
    out = tmp_path / "out"
    assert status == 0 and len(commands) == 6
    assert commands[1] == ["train", f"--config={own}:narrow", f"--workdir={out}/narrow_seed0",
                           "--config.seed=0", "--config.train.batch_size=4"]
    assert [command[2][-5:] for command in commands] == [f"seed{i // 2}" for i in range(6)]
    assert table(tmp_path, "name | seed |")[:2] == [
        ["wide", "0", "done", "1,234", "2,000", "20", "42", "90.0 (50)", "20.0", "60.0 (50)",
         "20.0"],
        ["wide", "1", "done", "1,234", "2,000", "20", "42", "70.0 (50)", "20.0", "60.0 (50)",
         "20.0"]]
    assert table(tmp_path, "name | seeds |") == [
        ["wide", "3", "80.0 / 70.0", "50.0 / 30.0"], ["narrow", "3", "40.0 / 30.0", "20.0 / 20.0"]]
    stored = json.loads((out / "sweep.json").read_text())
    assert stored["runs"][5]["results"]["96"] == {
        "exact_match": 0.3, "n": 50, "constant_answer": 0.2}
    assert stored["names"]["wide"]["192"]["worst"] == 0.3
    assert (out / "sweep.png").stat().st_size > 5000
    assert "80.0 / 70.0" in said and str(out / "sweep.md") in said
    assert lm2_sweep("--seeds=0,1,2", "--config.train.batch_size=4")[1] == []  # all are done


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are not rendered, which takes longer than all the rest."""
    monkeypatch.setattr(comparison_plots.style, "save", lambda figure, path: path)


def test_what_is_not_done_as_wanted_is_done_again(lm2_sweep, undrawn, tmp_path):
    assert len(lm2_sweep()[1]) == 2
    out = tmp_path / "out"
    (out / "wide_seed0" / "eval" / UNFINISHED).touch()
    assert [command[1][-5:] for command in lm2_sweep()[1]] == [":wide"]
    (out / "wide_seed0" / "eval" / UNFINISHED).unlink()
    (out / "narrow_seed0" / "eval" / "results.json").write_text("[")
    assert [command[1][-7:] for command in lm2_sweep()[1]] == [":narrow"]
    assert len(lm2_sweep("--config.eval.lengths=96")[1]) == 2
    assert len(lm2_sweep("--config.eval.lengths=96", "--config.eval.batch_size=7")[1]) == 0
    assert len(lm2_sweep("--config.eval.lengths=96", "--config.train.num_steps=30")[1]) == 2


def test_a_failed_run_is_told_and_tried_again_and_earlier_runs_stay(lm2_sweep, undrawn, tmp_path):
    Trained.failing.add("wide")
    status, commands, said = lm2_sweep()
    assert status == 1 and len(commands) == 2 and "wide_seed0 failed: lm2 train: no books" in said
    assert table(tmp_path, "name | seed |")[0][:3] == ["wide", "0", "failed"]
    status, commands, _ = lm2_sweep("--runs=narrow", "--seeds=1")
    assert status == 0 and len(commands) == 1
    assert [row[:3] for row in table(tmp_path, "name | seed |")] == [
        ["wide", "0", "failed"], ["narrow", "0", "done"], ["narrow", "1", "done"]]
    assert "- wide, seed 0: lm2 train: no books" in (tmp_path / "out/sweep.md").read_text()
    Trained.failing.clear()
    assert lm2_sweep()[:2] == (0, Trained.commands) and len(Trained.commands) == 1
    assert "Failed" not in (tmp_path / "out" / "sweep.md").read_text()


def test_the_queue_is_listed_and_nothing_is_done(lm2_sweep, undrawn, tmp_path):
    lm2_sweep("--runs=narrow")
    before = sorted((tmp_path / "out").rglob("*"))
    with locks.locked(tmp_path / "out" / "wide_seed0", "lm2 train"):
        status, commands, said = lm2_sweep("--list", "--seeds=0,1")
    assert status == 0 and commands == []
    assert {*before, tmp_path / "out/wide_seed0", tmp_path / "out/wide_seed0/.lock"} == {
        *(tmp_path / "out").rglob("*")}
    assert [line.split() for line in said.splitlines() if "seed" not in line and "20" in line] == [
        ["wide", "0", "running", "0", "20"], ["narrow", "0", "done", "20", "20"],
        ["wide", "1", "waiting", "0", "20"], ["narrow", "1", "waiting", "0", "20"]]


@pytest.mark.parametrize("arguments,wanted", [
    (["--runs=wide,tall"], "has no run tall; its runs are wide, narrow"),
    (["--seeds=0,x"], "--seeds is '0,x'; it must be numbers"),
    (["--config.seed=3"], "give seeds as --seeds"),
    (["--config.eval.lengths="], "eval.lengths of wide leaves no results"),
    (["--config.eval.memory=reset"], "eval.memory of wide leaves no results"),
    (["--config.train.num_step=3"], "did you mean train.num_steps"),
    (["--jobs=-1"], "--jobs is -1"),
    (["--config=tiny"], "has no dictionary RUNS"),
])
def test_mistakes_are_told_before_anything_is_trained(lm2_sweep, tmp_path, arguments, wanted):
    status, commands, said = lm2_sweep(*arguments)
    assert status == 2 and commands == [] and wanted in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_terminal_shows_steps_and_what_runs(own, tmp_path, monkeypatch):
    trials = job.make_trials(own, ["wide", "narrow"], [0], tmp_path, {})
    console = Console(file=io.StringIO(), width=150, force_terminal=True, color_system=None)
    display = job._Display(trials, console)
    Queue([trial.job for trial in trials], 2, lambda *_: None).advance()
    trials[0].job.status = "done"
    trials[1].workdir.mkdir()
    (trials[1].workdir / "metrics.jsonl").write_text('{"step": 4}\n{"step": 5}\n{"st')
    display.update()
    display.close()
    assert "25/40 steps 1/2 runs done  narrow_seed0 25%" in console.file.getvalue()


def test_many_names_at_one_trained_length_are_counted(own, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparison_plots.style, "save", lambda figure, path: drawn.append(figure))
    for i in range(6):
        config = files.load_config(f"{own}:wide", {"data.curriculum": f"((0,{1 + i // 5}),)"})
        train(config, "wide", tmp_path / str(i))
    entries = [job.report.Entry(f"run{i}", 0, "done", run=job.finished(tmp_path / str(i)))
               for i in range(6)]
    comparison_plots.plot_curves(job.report.compared(entries), tmp_path / "x.png")
    labels = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert "longest row in training of run0; 4 others (64 tokens)" in labels
    assert "longest row in training of run5 (128 tokens)" in labels


TWO = """
from pathlib import Path

from lm2_jax.config import source

tiny = source.module(Path("configs/tiny.py"))
RUNS = {"one": 1, "two": 2}


def get_config(name):
    config = tiny.get_config()
    config.model.num_layers = config.model.memory.num_layers = 1
    config.data.background_sentences = 300
    config.data.questions_per_point = RUNS[name]
    config.data.curriculum = ((0, 1),)
    config.train.num_steps = 30
    config.train.advance_accuracy = 0.0
    config.train.eval_every_steps = 0
    config.checkpoint.every_steps = 1000
    config.eval.lengths = ("96",)
    config.eval.memory = ("carried",)
    return config
"""


@pytest.mark.processes
def test_a_sweep_that_is_stopped_goes_on_where_it_was(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lm2_jax.cli", "sweep", f"--config={tmp_path}/two.py",
               f"--out={out}", *runs.SMALL[1:]]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu",
                                "JAX_COMPILATION_CACHE_DIR": runs.compiled(),
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}

    def start(jobs):
        return subprocess.Popen([*command, f"--jobs={jobs}"], cwd=runs.ROOT, env=environment,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    first = start(1)
    metrics = out / "one_seed0" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "one_seed0 stopped" in said, said
    words = shlex.split(said.strip().splitlines()[-1].partition("goes on: ")[2])
    assert words[:2] == ["lm2", "sweep"] and {*words[2:]} == {
        *command[4:], "--seeds=0", "--jobs=1"}
    assert not (out / "two_seed0").exists()

    second = start(2)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    stored = json.loads((out / "sweep.json").read_text())
    assert [(run["name"], run["status"], run["steps"]) for run in stored["runs"]] == [
        ("one", "done", 30), ("two", "done", 30)]
    assert "resuming" in (out / "one_seed0.log").read_text()
    assert "resuming" not in (out / "two_seed0.log").read_text()
    for name in ("one", "two"):
        lines = (out / f"{name}_seed0" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 31))
