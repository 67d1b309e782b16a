"""An interval of time that ends at one step for all processes of a run."""

import itertools
import time

import jax

from lm2_jax.runtime import processes

STEPS_AHEAD = 2
_numbers = itertools.count()  # alike on all processes


class Interval:
    """Says at which step so many seconds have passed since the start or the last `restart`.

    Process 0 measures the time, and with several processes announces the step two steps ahead. A
    process that decides about a step has the metrics of the step before, so process 0 has already
    decided about the step before that: every process sees the announcement in time.

    Args:
      seconds: of the interval; 0 never ends.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Begins a new interval; every process must call this after the same step."""
        self._began, self._step = time.monotonic(), 0
        self._key = f"interval {next(_numbers)}"

    def has_ended(self, step: int) -> bool:
        """Returns whether the interval ends at this step; call it after each, on every process."""
        if not self._seconds:
            return False
        over = time.monotonic() - self._began >= self._seconds
        if jax.process_count() == 1:
            return over
        if not self._step and processes.is_primary() and over:
            self._step = step + STEPS_AHEAD
            processes.announce(self._key, str(self._step))
        elif not self._step and not processes.is_primary():
            self._step = int(processes.announced(self._key) or 0)
        return 0 < self._step <= step
