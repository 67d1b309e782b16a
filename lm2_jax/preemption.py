"""SIGTERM: the step at which a run saves and leaves, the same on every process."""

import signal

import jax
from jax.experimental import multihost_utils


class Preemption:
    """While entered, SIGTERM does not end the process but asks it to leave after a step.

    With several processes a signal to one reaches all through JAX's coordination service, which
    agrees on a step that none has passed.
    """

    def __init__(self):
        self._asked, self._before = False, None

    def __enter__(self):
        if not jax.distributed.is_initialized():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Whether to save and leave after this step; to be asked at every step, by everyone."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _ask(self, *_) -> None:
        self._asked = True
