"""One run as several real processes: the same numbers, written once; and what becomes of it when
one of them is asked to leave, is killed, stands still or does not see the others' files."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import kill_train
import numpy as np
import pytest
import runs

pytestmark = pytest.mark.processes

STEPS = ("--config.train.num_steps=16", "--config.train.advance_accuracy=0",
         "--config.data.curriculum=((0,1),)", "--config.train.eval_every_steps=8",
         "--config.data.background_sentences=300", "--config.eval.lengths=96",
         "--config.eval.memory=carried", "--config.eval.num_samples=4",
         "--config.eval.batch_size=4", "--config.model.num_layers=1",
         "--config.model.memory.num_layers=1", "--config.model.embed_dim=16",
         "--config.model.mlp_dim=32")  # the less of each, the sooner it is compiled
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
    assert [line["step"] for line in a] == [line["step"] for line in b] == list(range(1, 17))
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


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_batch_is_that_of_one_process(processes, tmp_path):
    """Bit for bit, on meshes whose batch axes span the processes, and on one where they do not."""
    def printed(command):
        run = subprocess.run(command, cwd=runs.ROOT, text=True, capture_output=True,
                             env=os.environ | {"FOLDER": str(tmp_path)})
        assert run.returncode == 0, run.stdout + run.stderr
        return re.findall(r"(\d) (\(.*\)) (\d) rows (\w{64})", run.stdout)

    script = [sys.executable, "tests/tools/host_batches.py"]
    wanted = {digest for *_, digest in printed(script)}
    found = printed(["launch/local.sh", "-n", str(processes), "-d", str(4 // processes), "--",
                     *script])
    assert len(wanted) == 1 and len(found) == 5 * processes
    assert {digest for *_, digest in found} == wanted
    rows = {shape: int(count) for index, shape, count, _ in found if index == "0"}
    assert rows == {"(4, 1, 1)": 8 // processes, "(1, 4, 1)": 8 // processes, "(1, 1, 4)": 8,
                    "(2, 1, 2)": 4, "(1, 2, 2)": 4}


@pytest.mark.slow
@pytest.mark.parametrize("saves,restores", [(2, 1), (1, 2), (2, 4)])
def test_a_checkpoint_is_the_same_on_as_many_hosts_and_another_mesh(tmp_path, saves, restores):
    for what, processes in (("save", saves), ("restore", restores)):
        command = [sys.executable, "tests/tools/host_checkpoint.py", what, str(tmp_path)]
        if processes > 1:
            command = ["launch/local.sh", "-n", str(processes), "-d", str(8 // processes), "--",
                       *command]
        run = subprocess.run(command, cwd=runs.ROOT, text=True, capture_output=True)
        assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(" are alike") == restores


@pytest.mark.slow
def test_four_processes_train_as_one_and_write_once(alone, tmp_path):
    workdir = tmp_path / "four"
    run = runs.ended(start(workdir, processes=4, devices=1))
    assert run.returncode == 0, run.stdout + run.stderr
    assert_alike(alone, workdir)
    for name in ("eval/results.json", "eval/history.jsonl", "curriculum.jsonl"):
        assert (alone / name).read_text() == (workdir / name).read_text()
    assert {path.name for path in alone.iterdir()} == {path.name for path in workdir.iterdir()}
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert all(line.startswith("[0] ") or "peer ranks" in line
               for line in run.stdout.splitlines())


def test_the_life_of_a_run(alone, tmp_path):
    """Its second host's loader stalls; it is asked to leave; it loses the one process in a step,
    the other in a save; and ends as one process, on another mesh. Nothing changes the numbers."""
    workdir = tmp_path / "run"
    stalls(workdir)
    step, trained = leaves(workdir), []
    for victim, moment in ((1, "step"), (0, "save")):
        step = loses(workdir, victim, moment, step)
        # What was trained again, from a checkpoint, came out the same bit for bit.
        trained.append(what_repeats(workdir))
        both = min(len(lines) for lines in trained)
        assert trained[-1][:both] == trained[0][:both]
    run = runs.lm2("train", workdir, *STEPS, "--config.mesh.data=4", devices=4)
    assert run.returncode == 0, run.stderr
    assert f"after step {step}" in run.stdout and "restart" in run.stdout.split("time: ")[1]
    assert what_repeats(workdir)[:step] == trained[-1][:step]
    assert_alike(alone, workdir)
    assert (workdir / "eval/history.jsonl").read_text() == (
        alone / "eval/history.jsonl").read_text()


def stalls(workdir):
    """The process that makes batches for the second host stops: that is said. SIGTERM before it
    goes on: the run saves at the step that all agree on."""
    process = start(workdir, "--config.data.num_workers=1", "--config.train.stall_seconds=1",
                    **TWO)
    until(process, lambda: kill_train.last_step(workdir) >= 1)
    one = runs.pids(workdir)[1]
    workers = children(one)
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    for line in process.stderr:
        if re.match(r"\[[01]\] watchdog: process 1 of 2 \(.*\) has been in phase 'data' for \d+ "
                    r"s, after step \d+$", line):
            break
    else:
        pytest.fail("nothing was said")
    os.kill(one, signal.SIGTERM)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    run = runs.ended(process)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "SIGTERM: saved at step" in run.stdout


def leaves(workdir):
    """The step that was saved; each process left there."""
    step = kill_train.last_step(workdir)
    assert max(kill_train.checkpoints(workdir)) == step < 16
    return step


def loses(workdir, victim, moment, step):
    """Kills a process: the other one ends, and says why. Returns the newest checkpoint's step."""
    process = start(workdir, **TWO)
    old = kill_train.saves(workdir)
    until(process, lambda: kill_train.last_step(workdir) > step if moment == "step" else
          kill_train.saves(workdir) - old)
    pid = runs.pids(workdir)[victim]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    run = runs.ended(process)
    assert run.returncode != 0 and time.monotonic() - began < SECONDS
    named = re.search(rf"\[{1 - victim}\] lm2 train: process {victim} of 2 \(.*\): ended "
                      "unexpectedly. This process stops too; the same command resumes", run.stderr)
    # Where the coordinator itself is gone, JAX may end the others before they can name it.
    assert named or victim == 0 and "coordination service" in run.stderr
    return max(kill_train.checkpoints(workdir))


@pytest.mark.slow
def test_a_save_that_fails_on_one_host_fails_on_all(alone, tmp_path):
    """Its files may not grow until that has been said; the training goes on as if they could."""
    workdir = tmp_path / "run"
    process = start(workdir, "--config.checkpoint.on_failure=continue", **TWO)
    until(process, lambda: kill_train.last_step(workdir) >= 1)
    one = runs.pids(workdir)[1]
    resource.prlimit(one, resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    began = time.monotonic()
    for line in process.stdout:
        if "could not be saved" in line:
            break
    else:
        pytest.fail(runs.ended(process).stderr)
    assert time.monotonic() - began < SECONDS
    resource.prlimit(one, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert re.match(r"\[0\] checkpoint of step \d+ could not be saved: process 1 of 2 \(.*\): File "
                    r"too large \(.*\); .*; training goes on$", line), line
    run = runs.ended(process)
    assert run.returncode == 0, run.stderr
    assert kill_train.checkpoints(workdir)[-1] == 16
    assert_alike(alone, workdir)


@pytest.mark.slow
def test_sigterm_is_heard_as_a_run_is_resumed_and_in_its_last_evaluation(alone, tmp_path):
    workdir, journal = tmp_path / "run", tmp_path / "run" / "eval" / "unfinished.jsonl"
    asked = "--config.eval.lengths=96,192,384", "--config.eval.num_samples=40"
    answers = ("--config.eval.batch_size=4", *asked)
    process = start(workdir, *answers, **TWO)
    until(process, lambda: kill_train.checkpoints(workdir) == [4])
    for moment in ("start", "evaluation", "evaluation"):
        os.kill(runs.pids(workdir)[1], signal.SIGTERM)
        run = runs.ended(process)
        step = kill_train.last_step(workdir)
        assert run.returncode == 0 and f"SIGTERM: saved at step {step}; " in run.stdout, run.stderr
        assert kill_train.checkpoints(workdir)[-1] == step
        assert not (workdir / "eval" / "results.json").exists() or step == 16
        given = len(journal.read_text()) if journal.exists() else 0
        process = start(workdir, *answers, **TWO)
        if moment == "start":
            next(line for line in process.stdout if "resuming" in line)
        else:
            until(process, lambda given=given: journal.exists()
                  and len(journal.read_text()) > given)
    run = runs.ended(process)
    assert run.returncode == 0 and not journal.exists(), run.stderr
    assert_alike(alone, workdir)


@pytest.mark.slow
def test_processes_of_unlike_runs_are_refused(tmp_path):
    run = each_with_its_own(f"--workdir='{tmp_path}/run' --config.seed=$LM2_PROCESS_ID")
    assert run.returncode != 0
    said = re.findall(r"^\[([01])\] lm2 train: the processes do not belong to one run: "
                      r"process 1 of 2 \(.*\): .*seed is 1 there, 0 on process 0", run.stderr,
                      re.MULTILINE)
    assert sorted(said) == ["0", "1"], run.stderr
    assert not (tmp_path / "run" / "config.json").exists()


def each_with_its_own(overrides):
    """Two processes, for each of which the shell fills in the overrides."""
    arguments = ["-m", "lm2_jax.cli", "train", runs.CONFIG, *runs.SMALL, *STEPS, *MESH]
    command = " ".join(f"'{word}'" for word in (sys.executable, *arguments))
    return subprocess.run(["launch/local.sh", "-n", "2", "-d", "2", "--", "bash", "-c",
                           f"exec {command} {overrides}"], cwd=runs.ROOT, text=True,
                          capture_output=True)


def children(pid):
    """Processes of Python that this one started."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    run = each_with_its_own(f"--workdir='{tmp_path}'/$LM2_PROCESS_ID")
    assert run.returncode != 0
    assert re.search(r"\[1\] lm2 train: .*/1 is not shared: .* a file system that all hosts mount",
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


@pytest.mark.slow
def test_a_slice_that_is_lost_is_done_without(alone, tmp_path):
    """Two slices, a process each, which save by time; one is killed: the run goes on with the
    other one, from the last save, with the same numbers."""
    workdir, slices = tmp_path / "run", "--config.mesh.dcn_data=2"
    inside = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.checkpoint.every_steps=99",
              "--config.checkpoint.every_minutes=0.001", "--config.checkpoint.keep=99")
    process = runs.start("train", workdir, *STEPS, *inside, slices, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, **TWO)
    until(process, lambda: kill_train.checkpoints(workdir))
    os.kill(runs.pids(workdir)[1], signal.SIGKILL)
    assert runs.ended(process).returncode != 0
    saved = max(kill_train.checkpoints(workdir))
    refused = runs.lm2("train", workdir, *STEPS, *inside, slices, devices=2)
    assert refused.returncode == 2 and "does not fit 1 slice" in refused.stderr
    run = runs.lm2("train", workdir, *STEPS, *inside, devices=2)
    assert run.returncode == 0 and f"after step {saved}" in run.stdout, run.stderr
    assert_alike(alone, workdir)
    starts = [json.loads(line) for line in (workdir / "starts.jsonl").read_text().splitlines()]
    assert [(start["step"], start["processes"]) for start in starts] == [(0, 2), (saved, 1)]
