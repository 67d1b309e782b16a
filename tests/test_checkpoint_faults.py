"""Real runs whose disk is full, whose files are limited, whose checkpoints are damaged."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time

import jax
import kill_train
import numpy as np
import pytest
import runs
from states import MESHES, bits, random_bits

import lm2_jax
from lm2_jax.checkpoint import PARTS, Checkpointer, SaveError
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig

if sys.platform != "linux":
    pytest.skip("limits and mounts are Linux's", allow_module_level=True)

EVERY, BAD = 2, 9  # steps between two saves; checkpoints that are damaged
OFTEN = f"--config.checkpoint.every_steps={EVERY}", "--config.checkpoint.keep=30"
KINDS = {"missing": "is missing", "truncated": "bytes instead of", "flipped": "has changed bytes"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Of a run that nothing happened to."""
    return runs.finished(tmp_path_factory.getbasetemp())


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; gives a function that makes it as large as it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield lambda size: mount("-o", f"remount,size={size}", folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


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
    """A run that stopped, as it could not save: (workdir, what it said)."""
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
                    f"{steps[-1]}. Once that is put right, the same command goes on")
    assert kill_train.last_step(workdir) <= steps[-1] + 2 * EVERY
    assert Checkpointer(workdir).newest_good() == (steps[-1], [])


def test_damaged_checkpoints_are_named_and_the_run_ends_as_if_nothing_had_happened(
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
        assert line.endswith(f"; step {good} is taken instead")
        assert f"{checkpoints}/{step} is now {step}.damaged" in said
    assert f"resuming {workdir} after step {good}" in said
    assert same_end(finished, workdir)
    assert Checkpointer(workdir).newest_good() == (40, [])
    assert kill_train.checkpoints(workdir) == list(range(EVERY, 41, EVERY))


def test_a_run_goes_on_when_the_disk_is_full_and_saves_when_it_is_not(finished, tmp_path):
    workdir = tmp_path / "run"
    size = sum(path.stat().st_blocks * 512
               for path in (finished / "checkpoints" / "40").rglob("*"))
    with small_disk(workdir / "checkpoints", int(1.6 * size)) as resize:
        process = runs.start("train", workdir, "--config.checkpoint.on_failure=continue",
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = next((line for line in process.stdout if "could not be saved" in line), "")
        steps = kill_train.checkpoints(workdir)
        whole = Checkpointer(workdir).newest_good()
        resize("1g")
        out, err = process.communicate()
        assert line == (f"checkpoint of step 8 could not be saved: No space left on device "
                        f"({workdir}/checkpoints); the newest checkpoint is of step 4; training "
                        "goes on\n")
        assert steps == [4] and whole == (4, [])
        assert (process.returncode, err) == (0, "") and "Traceback" not in out
        assert same_end(finished, workdir)
        assert Checkpointer(workdir).newest_good() == (40, [])
        assert all(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir())


# The same in this process.

@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def test_a_run_does_not_start_over_when_all_its_checkpoints_are_damaged(copy, capfd):
    steps = kill_train.checkpoints(copy)
    for step in steps:
        damage(copy / "checkpoints" / str(step), "flipped", "params")
    before = contents(copy)
    assert main(["train", runs.CONFIG, f"--workdir={copy}", *runs.SMALL]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith("lm2 train: ") and all(
        f"{copy}/checkpoints/{step} is damaged: params/" in line for step in steps)
    assert line.endswith("put one back from a copy, or train from the start in another --workdir")
    assert contents(copy) == before


def test_an_evaluation_takes_the_previous_one_and_says_so(copy, capfd):
    *_, previous, newest = kill_train.checkpoints(copy)
    name = damage(copy / "checkpoints" / str(newest), "flipped", "params")
    damage(copy / "checkpoints" / str(previous), "missing", "training")  # which is not read
    before = contents(copy / "checkpoints")
    said = f"{copy}/checkpoints/{newest} is damaged: {name} has changed bytes"
    assert main(["eval", runs.CONFIG, f"--workdir={copy}", *runs.SMALL, f"--step={newest}"]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith(f"lm2 eval: {said}; the good ones: ") and line.endswith(str(previous))
    assert main(["eval", runs.CONFIG, f"--workdir={copy}", *runs.SMALL, "--config.eval.lengths=96",
                 "--config.eval.memory=carried"]) == 0
    out, err = capfd.readouterr()
    assert err == f"{said}; step {previous} is taken instead\n"
    assert f"evaluating {copy} at step {previous}" in out
    _, params, step = lm2_jax.load_checkpoint(copy)
    assert step == previous and f"step {previous} is taken instead" in capfd.readouterr().err
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


# Saves that fail, without a model.

@contextlib.contextmanager
def file_size_limit(size):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def large(seed):
    params, training = random_bits(seed, MESHES[0])
    noise = np.random.default_rng(seed).standard_normal((512, 512), np.float32)
    return params | {"large": jax.device_put(noise)}, training


@pytest.fixture
def saver(tmp_path):
    """Makes a Checkpointer with a checkpoint of step 2; the lines it says are in `.said`."""
    made = []

    def make(**options):
        said = []
        checkpointer = Checkpointer(tmp_path, CheckpointConfig(**options), say=said.append)
        checkpointer.said = said
        checkpointer.save(2, *large(2), {"next_step": 2})
        checkpointer.wait()
        made.append(checkpointer)
        return checkpointer

    yield make
    for checkpointer in made:
        checkpointer.close()


LINE = ("checkpoint of step {} could not be saved: File too large ({}); the newest checkpoint is "
        "of step 2")


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("noticed", ["save", "poll", "wait"])
def test_a_failure_stops_at_the_next_call(saver, capfd, asynchronous, noticed):
    checkpointer = saver(asynchronous=asynchronous)
    line = LINE.format(4, checkpointer.directory)
    with file_size_limit(500_000), pytest.raises(SaveError) as error:
        checkpointer.save(4, *large(4), {})
        assert asynchronous  # else it is raised above
        if noticed == "save":
            checkpointer.save(6, *large(6), {})
        elif noticed == "wait":
            checkpointer.wait()
        else:
            for _ in range(1000):
                time.sleep(0.01)
                checkpointer.poll()
    assert str(error.value) == line and checkpointer.said == []
    assert checkpointer.newest_good() == (2, [])
    restored = checkpointer.restore(2, *large(0))
    assert bits(restored) == bits(large(2))
    checkpointer.close()
    assert [path.name for path in checkpointer.directory.iterdir()] == ["2"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failure_is_said_and_the_next_save_is_as_ever(saver, asynchronous):
    checkpointer = saver(asynchronous=asynchronous, on_failure="continue", keep=1)
    lines = [LINE.format(step, checkpointer.directory) + "; training goes on" for step in (4, 6)]
    with file_size_limit(500_000):
        for step in (4, 6):
            checkpointer.save(step, *large(step), {})
        checkpointer.save(8, *large(8), {})  # reports that of 6
        assert checkpointer.said[:2] == lines and checkpointer.steps() == [2]
        with pytest.raises(SaveError, match="^checkpoint of step 8 could not be saved"):
            checkpointer.wait()  # the last one: the run has not kept what it made
    checkpointer.save(10, *large(10), {})
    checkpointer.wait()
    assert checkpointer.newest_good() == (10, [])
    assert bits(checkpointer.restore(10, *large(0))) == bits(large(10))
    checkpointer.close()
    assert [path.name for path in checkpointer.directory.iterdir()] == ["10"]


def test_closing_says_what_nobody_asked_for(saver):
    checkpointer = saver()
    with file_size_limit(500_000):
        checkpointer.save(4, *large(4), {})
        checkpointer.close()
    assert checkpointer.said == [LINE.format(4, checkpointer.directory)]


def test_a_good_checkpoint_is_not_written_over(saver):
    checkpointer = saver()
    checkpointer.save(2, *large(3), {})
    with pytest.raises(SaveError, match="step 2 .*checkpoints/2 is there already"):
        checkpointer.wait()
    assert bits(checkpointer.restore(2, *large(0))) == bits(large(2))


def test_wherever_the_space_ends_the_save_fails_or_is_exact(tmp_path, capfd):
    """Of bytes and of files; orbax writes from many threads, and one may be enough."""
    with small_disk(tmp_path / "checkpoints", "50m") as resize:
        checkpointer = Checkpointer(tmp_path, CheckpointConfig())
        checkpointer.save(2, *random_bits(2, MESHES[0]), {})
        checkpointer.wait()
        stat, outcomes = os.statvfs(tmp_path / "checkpoints"), []
        for blocks, inodes in ((0, 99), (9, 99), (20, 99), (28, 99), (60, 99), (99, 0), (99, 12),
                               (99, 25), (99, 38)):
            used = stat.f_blocks - stat.f_bfree, stat.f_files - stat.f_ffree
            resize(f"{(used[0] + blocks) * 4096},nr_inodes={used[1] + inodes}")
            try:
                checkpointer.save(4, *random_bits(4, MESHES[0]), {})
                checkpointer.wait()
                good = 4
            except SaveError:
                good = 2
            resize("50m,nr_inodes=9999")
            assert checkpointer.newest_good() == (good, [])
            assert bits(checkpointer.restore(good, *random_bits(0, MESHES[0]))) == bits(
                random_bits(good, MESHES[0]))
            outcomes.append(good)
            time.sleep(0.2)  # writes that the failed save did not wait for
            checkpointer._clean()
            shutil.rmtree(checkpointer.directory / "4", ignore_errors=True)
        checkpointer.close()
        assert outcomes == [2, 2, 2, 2, 4, 2, 2, 2, 2]
    assert capfd.readouterr().err == ""
