"""A queue of commands: a few run at a time, in order, and none runs twice at once."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from lm2_jax.runtime import locks

WAITING, ELSEWHERE, RUNNING, DONE, STOPPED, FAILED = (
    "waiting", "in use elsewhere", "running", "done", "stopped", "failed")
NOTE_OF_JAX = "For simplicity, JAX has removed its internal frames"
TAIL = 4096  # bytes of a log in which its last line is looked for


class Process(Protocol):
    """What the queue needs of a subprocess.Popen."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...


Start = Callable[[Sequence[str], TextIO], Process]


@dataclass(eq=False)
class Job:
    """A command that can be interrupted with SIGTERM and started again.

    Attributes:
      log: file that gets its output, at the end. It is locked while the command runs, so that
        another queue, also one of another process, does not start the same job.
      is_done: whether nothing is left to do.
      is_free: whether no other program does what the command would do.
      status: WAITING to be started; ELSEWHERE, which waits until another program has ended;
        RUNNING; DONE; STOPPED before it was done, by SIGTERM; or FAILED.
      error: the last line of the log of a failed job.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_done: Callable[[], bool]
    is_free: Callable[[], bool] = lambda: True
    status: str = WAITING
    error: str = ""
    process: Process | None = None


class Queue:
    """Jobs in their order.

    Args:
      at_once: how many run at a time.
      start: starts a command that writes to a file.

    Attributes:
      stopped: whether nothing more is started.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int, start: Start):
        self.jobs, self._at_once, self._start = jobs, at_once, start
        self.stopped = False

    def of(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs if job.status in statuses]

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self.of(RUNNING, *(() if self.stopped else (WAITING, ELSEWHERE)))

    def advance(self) -> list[Job]:
        """Notes which jobs have ended, starts those that can start; returns what changed.

        A job in use elsewhere is left for later: jobs after it start.
        """
        before = {job: job.status for job in self.jobs}
        for job in self.of(RUNNING):
            if job.process and (status := job.process.poll()) is not None:
                self._end(job, status)
        for job in () if self.stopped else self.of(WAITING, ELSEWHERE):
            if len(self.of(RUNNING)) >= self._at_once:
                break
            self._begin(job)
        return [job for job in self.jobs if job.status != before[job]]

    def stop(self) -> None:
        """Sends SIGTERM to what runs, and starts nothing more."""
        self.stopped = True
        for job in self.of(RUNNING):
            if job.process:
                job.process.terminate()

    def _begin(self, job: Job) -> None:
        log = locks.claim(job.log)
        if log is None:
            job.status = ELSEWHERE
            return
        with log:  # the command has it open too, and so keeps the lock
            if job.is_done():  # asked only now, when no other queue can be at it
                job.status = DONE
            elif not job.is_free():
                job.status = ELSEWHERE
            else:
                job.process, job.status, job.error = self._start(job.command, log), RUNNING, ""

    def _end(self, job: Job, status: int) -> None:
        job.process = None
        if job.is_done():
            job.status = DONE
        elif status in (0, -signal.SIGTERM):
            job.status = STOPPED
        elif not job.is_free():  # another program began just before this one
            job.status = ELSEWHERE
        else:
            job.status, job.error = FAILED, last_line(job.log)
            if status < 0:
                job.error = f"{signal.Signals(-status).name} ended it, after: {job.error}"


def last_line(path: Path) -> str:
    """The last line of a text file that says something; "" if there is none.

    That is not an empty one, nor JAX's note on its tracebacks, which stands below the error.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    said = [line.strip() for line in lines
            if line.strip(" -") and not line.startswith(NOTE_OF_JAX)]
    return said[-1] if said else ""
