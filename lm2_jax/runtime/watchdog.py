"""Says when a process stands still, and in which phase."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable

from lm2_jax.runtime.phases import Phases


class Watchdog:
    """A thread that looks at the phases of its own process.

    Where one lasts longer than `seconds` it says so, and again each time that has doubled, with
    the stack of every thread on stderr the first time: of all processes the one in "data" is
    the one that the others wait for.

    Args:
      seconds: 0 = no watching.
      name: of this process.
      say: called with the line.
    """

    def __init__(self, phases: Phases, seconds: float, name: str, say: Callable[[str], None]):
        self._phases, self._seconds, self._name, self._say = phases, seconds, name, say
        self.step = 0
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        said_of, limit = None, self._seconds
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            since = self._phases.since
            if since != said_of:
                said_of, limit = since, self._seconds
            if time.perf_counter() - since >= limit:
                self._say(f"watchdog: {self._name} has been in phase {self._phases.now!r} for "
                          f"{time.perf_counter() - since:.0f} s, after step {self.step}")
                if limit == self._seconds:
                    faulthandler.dump_traceback(file=sys.stderr)
                limit *= 2
