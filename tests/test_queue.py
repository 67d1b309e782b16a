"""A queue of commands: order, limits, failures, stopping, and what another program is at."""

import subprocess
import sys
from pathlib import Path

import pytest

from lm2_jax.runtime import children, locks
from lm2_jax.runtime.queue import (
    DONE,
    ELSEWHERE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    Job,
    Queue,
    last_line,
)


class Fake:
    """A process that ends when it is told to."""

    def __init__(self, command, log):
        self.status, self.name, self.terminated = None, command[0], False
        self.log = Path(log.name)

    def poll(self):
        return self.status

    def terminate(self):
        self.terminated = True
        self.status = 0

    def end(self, status, line=""):
        self.log.write_text(self.log.read_text("utf-8") + line, "utf-8")
        self.status = status


@pytest.fixture
def made(tmp_path):
    """Makes a queue of fakes; `done` names the finished jobs, `busy` those of other programs."""
    def make(names, at_once=2):
        done, busy, started = set(), set(), []
        jobs = [Job(name, [name], tmp_path / f"{name}.log", lambda name=name: name in done,
                    lambda name=name: name not in busy) for name in names]

        def start(command, log):
            started.append(Fake(command, log))
            return started[-1]

        return Queue(jobs, at_once, start), done, busy, started
    return make


def statuses(queue):
    return [job.status for job in queue.jobs]


def test_jobs_start_in_order_and_never_more_than_allowed(made):
    queue, done, _, started = made("abcd")
    done.add("b")
    assert [job.name for job in queue.advance()] == ["a", "b", "c"]
    assert statuses(queue) == [RUNNING, DONE, RUNNING, WAITING] and queue.advance() == []
    done.add("a")
    started[0].end(0)
    assert [job.name for job in queue.advance()] == ["a", "d"]
    assert statuses(queue) == [DONE, DONE, RUNNING, RUNNING]
    for process in started[1:]:
        done.add(process.name)
        process.end(0)
    queue.advance()
    assert queue.is_empty and statuses(queue) == [DONE] * 4
    assert [process.name for process in started] == ["a", "c", "d"]


def test_a_failure_has_the_last_line_of_its_log_and_the_others_go_on(made):
    queue, done, _, started = made("abc", at_once=1)
    queue.advance()
    started[0].end(2, "much\n\nlm2 train: the disk is full\n\n")
    queue.advance()
    started[1].end(-9, "step 7\n")
    queue.advance()
    done.add("c")
    started[2].end(0)
    queue.advance()
    assert statuses(queue) == [FAILED, FAILED, DONE] and queue.is_empty
    assert [job.error for job in queue.jobs] == [
        "lm2 train: the disk is full", "SIGKILL ended it, after: step 7", ""]


def test_stopping_ends_what_runs_and_starts_nothing(made):
    queue, done, _, started = made("abc")
    queue.advance()
    done.add("a")  # it was at its end
    queue.stop()
    assert all(process.terminated for process in started)
    queue.advance()
    assert statuses(queue) == [DONE, STOPPED, WAITING] and queue.is_empty and len(started) == 2


def test_a_job_that_another_program_is_at_is_left_for_later(made):
    queue, done, busy, started = made("abc", at_once=1)
    busy.add("a")
    with locks.claim(queue.jobs[1].log):
        queue.advance()
        assert statuses(queue) == [ELSEWHERE, ELSEWHERE, RUNNING]
        done.update("abc")  # but the other programs have not ended
        started[0].end(0)
        queue.advance()
        assert statuses(queue) == [DONE, ELSEWHERE, DONE] and not queue.is_empty
    queue.advance()
    assert statuses(queue) == [DONE] * 3 and len(started) == 1


def test_a_program_that_began_just_before_is_waited_for(made):
    queue, done, busy, started = made("a")
    queue.advance()
    busy.add("a")
    started[0].end(2, "in use by lm2 train\n")
    queue.advance()
    assert statuses(queue) == [ELSEWHERE] and not queue.is_empty


def test_two_queues_never_run_the_same_job_at_once(tmp_path):
    """With real processes, whose locks outlive the queue that started them."""
    def queue():
        return Queue([Job(name, [sys.executable, "-c", "input()"], tmp_path / name,
                          lambda: False) for name in "ab"], 1, start)

    pipes = []

    def start(command, log):
        pipes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log))
        return pipes[-1]

    one, other = queue(), queue()
    for each in (one, other, one, other):
        each.advance()
    assert statuses(one) == [RUNNING, WAITING] and statuses(other) == [ELSEWHERE, RUNNING]
    third = queue()
    third.advance()
    assert statuses(third) == [ELSEWHERE, ELSEWHERE]
    for process in pipes:
        process.communicate(b"\n", timeout=20)
    for each in (one, other):
        each.advance()
    assert len(pipes) == 4  # each took the other job, since neither was done
    assert [process.kill() or process.wait() for process in pipes[2:]] == [-9, -9]
    for process in pipes[2:]:
        process.stdin.close()


def test_the_last_line_of_a_log(tmp_path):
    path = tmp_path / "log"
    for text, wanted in (("", ""), ("\n \n", ""), ("one\ntwo", "two"), ("x" * 9999 + "\ny\n", "y"),
                         ("ValueError: no\n--------------------\nFor simplicity, JAX has removed "
                          "its internal frames from the traceback.\n", "ValueError: no")):
        path.write_text(text)
        assert last_line(path) == wanted


def test_each_child_has_a_core_of_its_own_and_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(children.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_own=1")
    cores = children.cores()
    if len(cores) < 2:
        pytest.skip("one core only")
    command = [sys.executable, "-c", "import os, time; print(sorted(os.sched_getaffinity(0)), "
               "os.environ['XLA_FLAGS'], os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"]
    logs = [open(tmp_path / f"{i}.log", "a+") for i in range(4)]
    started = [children.start(command, log, cores[:2]) for log in logs[:3]]
    assert children.cores() == cores

    def said(i):
        while not (text := (tmp_path / f"{i}.log").read_text()).endswith("\n"):
            assert started[i].poll() is None
        return text.strip()

    flags = f"--xla_own=1 {children.ONE_THREAD} True"
    assert said(0) == f"[{cores[0]}] {flags}" and said(1) == f"[{cores[1]}] {flags}"
    assert said(2) == f"{cores} {flags}"  # no core is left for it
    started[0].kill()
    started[0].wait()
    started.append(children.start(command, logs[3], cores[:2]))
    assert said(3) == f"[{cores[0]}] {flags}"
    for process in started:
        process.kill()
        process.wait()
    for log in logs:
        log.close()
