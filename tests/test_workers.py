"""Worker processes that make batches: SIGTERM, deaths, and scripts without a `__main__` guard."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grain
import kill_train
import pytest
import runs

from lm2_jax.data import workers
from lm2_jax.errors import UserError
from lm2_jax.runtime.preemption import Preempted, Preemption

pytestmark = pytest.mark.processes

SHORT = ("--config.train.num_steps=400", "--config.train.eval_every_steps=0",
         "--config.data.curriculum=((0,1),)", "--config.train.advance_accuracy=0",
         "--config.eval.num_samples=4", "--config.eval.lengths=96", "--config.data.num_workers=1",
         "--config.checkpoint.every_steps=1000")


class Numbers:
    """0, 1, ... to `length`; kills its process at `dies_at`, by the signal given."""

    def __init__(self, length, dies_at=None, number=signal.SIGKILL, slow=0.0):
        self.length, self.dies_at, self.number, self.slow = length, dies_at, number, slow

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.slow)
        if index == self.dies_at:
            os.kill(os.getpid(), self.number)
        return index


def dataset(source):
    return grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(
        num_threads=1, prefetch_buffer_size=1))


def children(pid):
    """Worker processes of a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()
                      if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


def until(process, condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("resumed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sigterm_to_the_process_group_while_data_is_awaited_saves(tmp_path, resumed):
    """As SLURM's step sends it. The worker is stopped, so that its batches are awaited."""
    process = runs.start("train", tmp_path / "run", *SHORT, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, start_new_session=True)
    until(process, lambda: kill_train.last_step(tmp_path / "run") >= 2)
    worker, = children(process.pid)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(4.0)
    os.killpg(process.pid, signal.SIGTERM)
    if resumed:
        os.kill(worker, signal.SIGCONT)
    step = None
    began = time.monotonic()
    for line in process.stdout:
        if line.startswith("SIGTERM: "):
            step = kill_train.last_step(tmp_path / "run")
            assert time.monotonic() - began < 15.0  # a stopped worker delays only the exit
    run = runs.ended(process)
    assert run.returncode == 0, run.stderr
    assert step >= 2 and kill_train.checkpoints(tmp_path / "run") == [step]
    assert not os.path.exists(f"/proc/{worker}")


SCRIPT = """
import sys
import lm2_jax
from lm2_jax.commands.train import train
config = lm2_jax.load_config("configs/tiny.py", {
    "data.num_workers": "2", "model.num_layers": "1", "model.memory.num_layers": "1"})
train(config, sys.argv[1])
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, tmp_path / "script.py", tmp_path / "run"], text=True,
                         capture_output=True, timeout=120, cwd=runs.ROOT,
                         env=os.environ | {"PYTHONPATH": str(runs.ROOT),
                                           "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                                           "JAX_COMPILATION_CACHE_DIR": runs.compiled()})
    assert run.returncode == 1
    assert "a data worker process has run the main script again" in run.stderr
    last = run.stderr.splitlines()[-1]
    assert "data.num_workers=2" in last and 'if __name__ == "__main__":' in last


def test_a_script_that_iterates_without_a_main_guard_is_told_so(tmp_path):
    """Also where no workdir is locked."""
    (tmp_path / "script.py").write_text(
        "import sys\nsys.path[:0] = 'tests', 'tests/tools'\n"
        "from test_workers import Numbers, dataset, workers\n"
        "print(sum(workers.iterate(Numbers(9), dataset, 1)))\n")
    run = subprocess.run([sys.executable, tmp_path / "script.py"], text=True, capture_output=True,
                         timeout=120, cwd=runs.ROOT,
                         env=os.environ | {"PYTHONPATH": str(runs.ROOT)})
    assert run.returncode == 1
    assert "a data worker process has run the main script again" in run.stderr


@pytest.mark.parametrize("number,wanted", [
    (signal.SIGKILL, r"was ended by SIGKILL \(perhaps for want of memory\)"),
    (signal.SIGBUS, "/dev/shm, .* is too small; enlarge it .* or set data.num_workers=0")])
def test_a_worker_that_dies_is_one_line(number, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        list(workers.iterate(Numbers(9, 3, number), dataset, 2))
    assert "num_workers=2" in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_in_a_worker_keeps_its_type():
    source = Numbers(9)
    source.length = "nine"
    with pytest.raises(TypeError):
        list(workers.iterate(source, dataset, 1))


def test_no_room_for_semaphores_is_one_line(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workers, "_without_sigterm", full)
    with pytest.raises(UserError, match="/dev/shm, .*num_workers=1"):
        list(workers.iterate(Numbers(9), dataset, 1))


def test_workers_survive_sigterm_from_their_first_moment_on():
    elements = workers.iterate(Numbers(60, slow=0.02), dataset, 2)
    stop, sent = threading.Event(), set()

    def bombard():
        while not stop.wait(0.01):
            for child in children(os.getpid()):
                sent.add(child)
                os.kill(child, signal.SIGTERM)

    thread = threading.Thread(target=bombard)
    thread.start()
    try:
        assert list(elements) == list(range(60))
    finally:
        stop.set()
        thread.join()
    assert len(sent) == 2


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, time\nsys.path[:0] = 'tests', 'tests/tools'\n"
                      "from test_workers import Numbers, dataset, workers\n"
                      "if __name__ == '__main__':\n"
                      "    for x in workers.iterate(Numbers(9999, slow=0.05), dataset, 1):\n"
                      "        print(x, flush=True)\n")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                               cwd=runs.ROOT, env=os.environ | {"PYTHONPATH": str(runs.ROOT)})
    assert process.stdout.readline() == "0\n"
    worker, = children(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sigterm_ends_the_wait_for_an_item():
    never = threading.Event()

    def items():
        yield 1
        never.wait()

    with Preemption() as preemption:
        received = preemption.interruptible(items())
        assert next(received) == 1
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Preempted):
            next(received)
        assert preemption.reached()
        with pytest.raises(Preempted):  # also if it came just before the wait
            next(preemption.interruptible(iter([1])))


def test_a_thread_has_no_signals_and_works():
    errors = []

    def run():
        try:
            with Preemption() as preemption:
                assert list(preemption.interruptible(iter([1, 2]))) == [1, 2]
                assert not preemption.reached()
        except BaseException as error:
            errors.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors and signal.getsignal(signal.SIGTERM) == before
