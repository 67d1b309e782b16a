"""Runs with a full disk, a file size limit, or damaged checkpoints."""

import os
import resource
import shutil
import subprocess
import time

import kill_train
import pytest
import runs
from disks import mount, small_disk

import lm2_jax
from lm2_jax.checkpoint.checkpointer import PARTS, Checkpointer
from lm2_jax.cli import main

# Compiled as in the processes, so that what those have compiled is found.
pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("compiled_quickly")]

EVERY, BAD = 2, 9  # steps between two saves; checkpoints that are damaged
OFTEN = f"--config.checkpoint.every_steps={EVERY}", "--config.checkpoint.keep=30"
KINDS = {"missing": "is missing", "truncated": "bytes instead of", "flipped": "has changed bytes"}


def until(process, happened):
    while process.poll() is None and not happened():
        time.sleep(0.005)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage(folder, kind, part):
    path = max((path for path in (folder / part).rglob("*") if path.is_file()),
               key=lambda path: path.stat().st_size)
    if kind == "flipped":
        flip(path)
    elif kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    return path.relative_to(folder).as_posix()


def same_end(finished, workdir):
    report = kill_train.compare([], finished, workdir, 40)
    return report.good


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory):
    """A run that stopped because it could not save: (workdir, status, stdout, stderr)."""
    workdir = tmp_path_factory.mktemp("faults") / "run"
    process = runs.start("train", workdir, *OFTEN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(process, lambda: len(kill_train.checkpoints(workdir)) > BAD)
    # Only the largest file of a checkpoint is above.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    out, err = process.communicate()
    return workdir, process.returncode, out, err


def test_a_save_above_the_file_size_limit_stops_the_run(stopped):
    workdir, status, out, err = stopped
    line, = err.splitlines()
    steps = kill_train.checkpoints(workdir)
    assert status == 1 and "Traceback" not in out
    assert line == (f"lm2 train: checkpoint of step {steps[-1] + EVERY} could not be saved: File "
                    f"too large ({workdir}/checkpoints); the newest checkpoint is of step "
                    f"{steps[-1]}. Once that is fixed, the same command resumes")
    assert kill_train.last_step(workdir) <= steps[-1] + 2 * EVERY
    assert Checkpointer(workdir).newest_valid_step() == (steps[-1], [])


def test_damaged_checkpoints_are_named_and_the_run_ends_like_an_undamaged_one(
        finished, stopped):
    workdir, checkpoints = stopped[0], stopped[0] / "checkpoints"
    *_, good = kill_train.checkpoints(workdir)[:-BAD]
    bad = kill_train.checkpoints(workdir)[-BAD:]
    cells = [(kind, part) for kind in KINDS for part in PARTS]
    damaged = {step: (damage(checkpoints / str(step), *cell), cell[0])
               for step, cell in zip(bad, cells, strict=True)}
    run = runs.lm2("train", workdir, *OFTEN)
    assert (run.returncode, run.stderr) == (0, "")
    said = run.stdout.splitlines()
    for step, (name, kind) in damaged.items():
        line, = (line for line in said if line.startswith(f"{checkpoints}/{step} is damaged"))
        assert f": {name} " in line and KINDS[kind] in line
        assert line.endswith(f"; using step {good} instead")
        assert f"renamed {checkpoints}/{step} to {step}.damaged" in said
    assert f"resuming {workdir} after step {good}" in said
    assert same_end(finished, workdir)
    assert Checkpointer(workdir).newest_valid_step() == (40, [])
    assert kill_train.checkpoints(workdir) == list(range(EVERY, 41, EVERY))


@pytest.mark.slow
def test_a_run_goes_on_when_the_disk_is_full_and_saves_when_it_is_not(finished, tmp_path):
    workdir = tmp_path / "run"
    size = sum(path.stat().st_blocks * 512
               for path in (finished / "checkpoints" / "40").rglob("*"))
    with small_disk(workdir, int(1.6 * size) + 30_000) as resize:
        process = runs.start("train", workdir, "--config.checkpoint.on_failure=continue",
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = next((line for line in process.stdout if "could not be saved" in line), "")
        steps = kill_train.checkpoints(workdir)
        whole = Checkpointer(workdir).newest_valid_step()
        resize("1g")
        out, err = process.communicate()
        assert line == (f"checkpoint of step 8 could not be saved: No space left on device "
                        f"({workdir}/checkpoints); the newest checkpoint is of step 4; training "
                        "goes on\n")
        assert steps == [4] and whole == (4, [])
        assert (process.returncode, err) == (0, "") and "Traceback" not in out
        assert same_end(finished, workdir)
        assert Checkpointer(workdir).newest_valid_step() == (40, [])
        assert all(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir())


# The same in this process.

@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_does_not_start_over_when_all_its_checkpoints_are_damaged(copy, capfd):
    steps = kill_train.checkpoints(copy)
    for step in steps:
        damage(copy / "checkpoints" / str(step), "flipped", "params")
    before = contents(copy)
    assert main(["train", runs.CONFIG, f"--workdir={copy}", *runs.SMALL]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith("lm2 train: ") and all(
        f"{copy}/checkpoints/{step} is damaged: params/" in line for step in steps)
    assert line.endswith("restore one from a backup, or train from the start in another --workdir")
    assert contents(copy) == before


def test_an_evaluation_uses_the_previous_checkpoint_and_says_so(copy, capfd):
    *_, previous, newest = kill_train.checkpoints(copy)
    name = damage(copy / "checkpoints" / str(newest), "flipped", "params")
    damage(copy / "checkpoints" / str(previous), "missing", "training")  # which is not read
    before = contents(copy / "checkpoints")
    said = f"{copy}/checkpoints/{newest} is damaged: {name} has changed bytes"
    assert main(["eval", runs.CONFIG, f"--workdir={copy}", *runs.SMALL, f"--step={newest}"]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith(f"lm2 eval: {said}; valid steps: ") and line.endswith(str(previous))
    assert main(["eval", runs.CONFIG, f"--workdir={copy}", *runs.SMALL, "--config.eval.lengths=96",
                 "--config.eval.memory=carried"]) == 0
    out, err = capfd.readouterr()
    out = " ".join(out.split())
    assert err == f"{said}; using step {previous} instead\n"
    assert f"evaluating {copy} at step {previous}" in out
    _, params, step = lm2_jax.load_checkpoint(copy)
    assert step == previous and f"using step {previous} instead" in capfd.readouterr().err
    assert contents(copy / "checkpoints") == before


@pytest.mark.parametrize("what", ["new", "run"])
def test_a_read_only_workdir(copy, capfd, what):
    before = contents(copy)
    mount("--bind", copy, copy)
    try:
        mount("-o", "remount,bind,ro", copy)
        workdir = copy if what == "run" else copy / "deep" / "new"
        assert main(["train", runs.CONFIG, f"--workdir={workdir}", *runs.SMALL]) == 2
        line, = capfd.readouterr().err.splitlines()
        assert line == (f"lm2 train: {copy} is read-only for this user; take another --workdir, "
                        "or make it writable")
        assert lm2_jax.load_checkpoint(copy)[2] == 40  # reading needs no writing
    finally:
        subprocess.run(["umount", copy], check=True)
    assert contents(copy) == before


def test_a_workdir_below_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert main(["train", runs.CONFIG, f"--workdir={tmp_path}/file/run", *runs.SMALL]) == 2
    assert capfd.readouterr().err == (f"lm2 train: {tmp_path}/file is not a folder; take another "
                                      "--workdir\n")
