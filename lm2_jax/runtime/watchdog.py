"""Reports a process that makes no progress, and the phase in which it hangs."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable

from lm2_jax.runtime.phases import Phases


class Watchdog:
    """A thread that reports a phase of its process which lasts longer than `seconds`.

    It reports the phase once more each time that its duration has doubled. With the first report,
    the stack of every thread goes to stderr. If several processes hang, the one in phase "data" is
    the one that the others wait for.

    Args:
      phases: of the process.
      seconds: 0 = no watching.
      name: of the process, for the message.
      report: called with a line, in the thread.

    Attributes:
      step: the last step done, for the message.
    """

    def __init__(self, phases: Phases, seconds: float, name: str, report: Callable[[str], None]):
        self._phases, self._seconds, self._name, self._report = phases, seconds, name, report
        self.step = 0
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        watched, limit = None, self._seconds
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            since = self._phases.since
            if since != watched:  # another phase
                watched, limit = since, self._seconds
            if time.perf_counter() - since >= limit:
                self._report(f"watchdog: {self._name} has been in phase {self._phases.now!r} for "
                             f"{time.perf_counter() - since:.0f} s, after step {self.step}")
                if limit == self._seconds:
                    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                        faulthandler.dump_traceback(file=sys.stderr)
                limit *= 2
