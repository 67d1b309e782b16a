"""One run as several real processes: the same numbers, written once; and what becomes of it when
one of them is asked to leave, is killed, stands still or does not see the others' files."""

import os
import re
import signal
import subprocess
import sys
import time

import kill_train
import numpy as np
import pytest
import runs

STEPS = ("--config.train.num_steps=12", "--config.train.advance_accuracy=0",
         "--config.data.curriculum=((0,1),(6,2))", "--config.train.eval_every_steps=6",
         "--config.eval.lengths=96", "--config.eval.memory=carried")
MESH = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")  # of four devices
TWO = dict(processes=2, devices=2)
SECONDS = 30.0  # in which the others must have ended; they take about one


def lines(workdir):
    return kill_train.lines(workdir)


def what_repeats(workdir):
    return [{key: value for key, value in line.items() if not key.startswith(kill_train.SPEED)}
            for line in lines(workdir)]


def assert_alike(one, other):
    """Trajectories that differ by rounding alone, of the very same batches."""
    a, b = lines(one), lines(other)
    assert [line["step"] for line in a] == [line["step"] for line in b] == list(range(1, 13))
    assert [line["tokens"] for line in a] == [line["tokens"] for line in b]
    for name in ("loss", "grad_norm", "param_norm"):
        np.testing.assert_allclose([line[name] for line in a], [line[name] for line in b],
                                   rtol=1e-5, err_msg=name)


def start(workdir, *overrides, **options):
    return runs.start("train", workdir, *STEPS, *MESH, *overrides, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, **options)


def until(process, condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with the four devices."""
    workdir = tmp_path_factory.mktemp("hosts") / "alone"
    run = runs.lm2("train", workdir, *STEPS, "--config.mesh.data=4", devices=4)
    assert run.returncode == 0, run.stderr
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The run of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("hosts") / "together"
    run = runs.ended(start(workdir, **TWO))
    assert run.returncode == 0, run.stdout + run.stderr
    (workdir.parent / "printed.txt").write_text(run.stdout)
    return workdir


@pytest.mark.parametrize("processes", [2, 4])
def test_the_batch_is_that_of_one_process(processes, tmp_path):
    """Bit for bit, on meshes whose batch axes span the processes, and on one where they do not."""
    def printed(command):
        run = subprocess.run(command, cwd=runs.ROOT, text=True, capture_output=True,
                             env=os.environ | {"FOLDER": str(tmp_path)})
        assert run.returncode == 0, run.stdout + run.stderr
        return re.findall(r"(\d) (\(.*\)) (\d) rows (\w{64})", run.stdout)

    script = [sys.executable, "tests/host_batches.py"]
    wanted = {digest for *_, digest in printed(script)}
    found = printed(["launch/local.sh", "-n", str(processes), "-d", str(4 // processes), "--",
                     *script])
    assert len(wanted) == 1 and len(found) == 5 * processes
    assert {digest for *_, digest in found} == wanted
    rows = {shape: int(count) for index, shape, count, _ in found if index == "0"}
    assert rows == {"(4, 1, 1)": 8 // processes, "(1, 4, 1)": 8 // processes, "(1, 1, 4)": 8,
                    "(2, 1, 2)": 4, "(1, 2, 2)": 4}


def test_two_processes_train_as_one(alone, together):
    assert_alike(alone, together)
    for name in ("eval/results.json", "eval/history.jsonl", "curriculum.jsonl"):
        assert (alone / name).read_text() == (together / name).read_text()
    assert {path.name for path in alone.iterdir()} == {path.name for path in together.iterdir()}
    assert len(list((together / "tensorboard").iterdir())) == 1
    printed = (together.parent / "printed.txt").read_text().splitlines()
    assert all(line.startswith("[0] ") or "[Gloo]" in line for line in printed)


def test_four_processes_train_as_one(alone, tmp_path):
    run = runs.ended(start(tmp_path / "four", processes=4, devices=1))
    assert run.returncode == 0, run.stdout + run.stderr
    assert_alike(alone, tmp_path / "four")


def test_sigterm_to_one_saves_on_all_and_the_run_goes_on_elsewhere(alone, tmp_path):
    """On one process, and another mesh."""
    workdir = tmp_path / "run"
    process = start(workdir, **TWO)
    until(process, lambda: kill_train.last_step(workdir) >= 2)
    os.kill(runs.pids(workdir)[1], signal.SIGTERM)
    run = runs.ended(process)
    assert run.returncode == 0, run.stdout + run.stderr
    step = int(re.search(r"SIGTERM: saved at step (\d+)", run.stdout)[1])
    assert step == kill_train.last_step(workdir) == max(kill_train.checkpoints(workdir))
    assert 2 <= step < 12
    run = runs.lm2("train", workdir, *STEPS, "--config.mesh.data=4", devices=4)
    assert run.returncode == 0, run.stderr
    assert f"after step {step}" in run.stdout
    assert_alike(alone, workdir)


@pytest.mark.parametrize("moment,victim", [("step", 1), ("save", 0)])
def test_a_killed_process_ends_all_and_the_run_repeats_bit_for_bit(moment, victim, together,
                                                                    tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, **TWO)
    until(process, lambda: kill_train.last_step(workdir) >= 4)
    if moment == "save":
        old = kill_train.saves(workdir)
        until(process, lambda: kill_train.saves(workdir) - old)
    pid = runs.pids(workdir)[victim]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    run = runs.ended(process)
    assert run.returncode != 0 and time.monotonic() - began < SECONDS
    assert re.search(rf"\[{1 - victim}\] lm2 train: process {victim} of 2 \(.*\): ended without a "
                     "word. This process ends too; the same command goes on", run.stderr)
    run = runs.ended(start(workdir, **TWO))
    assert run.returncode == 0, run.stdout + run.stderr
    assert what_repeats(workdir) == what_repeats(together)
    assert (workdir / "eval/results.json").read_text() == (
        together / "eval/results.json").read_text()


def test_a_stalled_loader_is_named(tmp_path):
    """The worker process that makes the second host's batches stops, and later goes on."""
    workdir = tmp_path / "run"
    process = start(workdir, "--config.data.num_workers=1", "--config.train.stall_seconds=1",
                    **TWO)
    until(process, lambda: kill_train.last_step(workdir) >= 1)
    workers = children(runs.pids(workdir)[1])
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    said = []
    for line in process.stderr:
        said.append(line)
        if "watchdog: process 1 of 2" in line and "in phase 'data'" in line:
            break
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert any(re.match(r"\[[01]\] watchdog: process 1 of 2 \(.*\) has been in phase 'data' for "
                        r"\d+ s, after step \d+", line) for line in said)


def children(pid):
    """Processes of Python that this one started."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    arguments = ["-m", "lm2_jax.cli", "train", runs.CONFIG, *runs.SMALL, *STEPS, *MESH]
    command = " ".join(f"'{word}'" for word in (sys.executable, *arguments))
    run = subprocess.run(
        ["launch/local.sh", "-n", "2", "-d", "2", "--", "bash", "-c",
         f"exec {command} --workdir='{tmp_path}'/$LM2_PROCESS_ID"], cwd=runs.ROOT, text=True,
        capture_output=True)
    assert run.returncode != 0
    assert re.search(r"\[1\] lm2 train: .*/1 is not shared: .* a file system that all hosts have",
                     run.stderr)
    assert "[0] lm2 train: process 1 of 2" in run.stderr


def test_who_does_not_come_is_named(tmp_path):
    command = [sys.executable, "-m", "lm2_jax.cli", "train", runs.CONFIG,
               f"--workdir={tmp_path / 'run'}", "--coordinator=127.0.0.1:29871",
               "--num-processes=3", "--process-id=0"]
    run = subprocess.run(command, cwd=runs.ROOT, text=True, capture_output=True,
                         env=os.environ | {"LM2_CONNECT_TIMEOUT": "1"})
    assert run.returncode == 2 and not (tmp_path / "run").exists()
    line, = run.stderr.splitlines()
    assert line.startswith("lm2 train: processes 1, 2 of 3 did not connect to ")
