"""A save that fails is reported once and leaves nothing behind; the next one works."""

import asyncio
import gc
import os
import shutil
import time

import jax
import numpy as np
import pytest
from disks import file_size_limit, small_disk
from states import MESHES, bits, random_bits

from lm2_jax.checkpoint.checkpointer import Checkpointer, SaveError
from lm2_jax.config import CheckpointConfig

pytestmark = pytest.mark.processes


def large(seed):
    params, training = random_bits(seed, MESHES[0])
    noise = np.random.default_rng(seed).standard_normal((512, 512), np.float32)
    return params | {"large": jax.device_put(noise)}, training


@pytest.fixture
def saver(tmp_path):
    """Makes a Checkpointer with a checkpoint of step 2; the lines it logs are in `.lines`."""
    made = []

    def make(**options):
        lines = []
        checkpointer = Checkpointer(tmp_path, CheckpointConfig(**options), log=lines.append)
        checkpointer.lines = lines
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
    assert str(error.value) == line and checkpointer.lines == []
    assert checkpointer.newest_valid_step() == (2, [])
    restored = checkpointer.restore(2, *large(0))
    assert bits(restored) == bits(large(2))
    checkpointer.close()
    assert [path.name for path in checkpointer.directory.iterdir()] == ["2"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failure_is_logged_and_the_next_save_works(saver, asynchronous):
    checkpointer = saver(asynchronous=asynchronous, on_failure="continue", keep=1)
    lines = [LINE.format(step, checkpointer.directory) + "; training goes on" for step in (4, 6)]
    with file_size_limit(500_000):
        for step in (4, 6):
            checkpointer.save(step, *large(step), {})
        checkpointer.save(8, *large(8), {})  # reports that of 6
        assert checkpointer.lines[:2] == lines and checkpointer.steps() == [2]
        with pytest.raises(SaveError, match="^checkpoint of step 8 could not be saved"):
            checkpointer.wait()  # the last one: the run has not kept what it made
    checkpointer.save(10, *large(10), {})
    checkpointer.wait()
    assert checkpointer.newest_valid_step() == (10, [])
    assert bits(checkpointer.restore(10, *large(0))) == bits(large(10))
    checkpointer.close()
    assert [path.name for path in checkpointer.directory.iterdir()] == ["10"]


def test_closing_logs_a_failure_not_yet_reported(saver):
    checkpointer = saver()
    with file_size_limit(500_000):
        checkpointer.save(4, *large(4), {})
        checkpointer.close()
    assert checkpointer.lines == [LINE.format(4, checkpointer.directory)]


def test_a_valid_checkpoint_is_not_overwritten(saver):
    checkpointer = saver()
    with pytest.raises(SaveError, match="step 2 .*checkpoints/2 already exists"):
        checkpointer.save(2, *large(3), {})
    assert bits(checkpointer.restore(2, *large(0))) == bits(large(2))


def test_with_any_space_left_a_save_fails_or_is_exact(tmp_path, capfd):
    """The space of bytes and inodes; orbax writes from many threads, and one failure is enough."""
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
            assert checkpointer.newest_valid_step() == (good, [])
            assert bits(checkpointer.restore(good, *random_bits(0, MESHES[0]))) == bits(
                random_bits(good, MESHES[0]))
            outcomes.append(good)
            time.sleep(0.2)  # writes that the failed save did not wait for
            checkpointer._remove_temporary()
            shutil.rmtree(checkpointer.directory / "4", ignore_errors=True)
        checkpointer.close()
        assert outcomes == [2, 2, 2, 2, 4, 2, 2, 2, 2]
    assert capfd.readouterr().err == ""


def test_reports_that_come_after_a_failure_are_not_logged(saver, caplog):
    """asyncio reports a task that nobody awaited when it is garbage collected, at any time."""
    def forget_future(error):
        loop = asyncio.new_event_loop()
        loop.create_future().set_exception(error)
        loop.close()
        gc.collect()

    def raised_in(path):
        try:
            exec(compile("raise OSError('No space left on device')", path, "exec"))
        except OSError as error:
            return error

    checkpointer = saver()
    with file_size_limit(500_000), pytest.raises(SaveError):
        checkpointer.save(4, *large(4), {})
        checkpointer.wait()
    checkpointer.close()
    forget_future(ValueError("orbax could not write"))
    forget_future(raised_in("site-packages/orbax/checkpoint/async_path.py"))
    assert caplog.text == ""
    forget_future(ValueError("another library"))
    assert "another library" in caplog.text
