"""SIGTERM: a run stops at a step that all processes agree on, and saves there."""

import signal
import threading
from collections.abc import Iterator
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from lm2_jax.runtime import processes

T = TypeVar("T")


class Preempted(Exception):  # noqa: N818  # not an error
    """SIGTERM was received during work that a later run can resume."""


class Preemption:
    """A context in which SIGTERM does not end the process, but makes `reached` return True.

    With several processes, a signal to any of them reaches all through JAX's preemption service.
    In a thread other than the main one Python allows no signal handlers: there SIGTERM is left to
    the handler that the program has.
    """

    def __init__(self):
        self._requested, self._waiting = False, False
        self._previous, self._calls = None, 0

    def __enter__(self):
        if jax.distributed.is_initialized():
            processes.require_preemption_service()
        elif threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self) -> bool:
        """Returns whether to stop now; True from then on. Call it on every process alike."""
        if jax.distributed.is_initialized():
            # The service picks a future sync point, the number after those that it has been asked
            # about. So every process must ask equally often, and with consecutive numbers: a
            # resumed run's step would be beyond that point.
            self._calls += 1
            self._requested |= multihost_utils.reached_preemption_sync_point(self._calls)
        return self._requested

    def check(self) -> None:
        """Raises `Preempted` if `reached`."""
        if self.reached():
            raise Preempted

    def interruptible(self, items: Iterator[T]) -> Iterator[T]:
        """Yields the items; raises `Preempted` at once if SIGTERM comes while one is awaited.

        With several processes it does not: the others may be in a step that this one must join.
        """
        while True:
            self._waiting = True
            try:
                if self._requested and not jax.distributed.is_initialized():
                    raise Preempted
                item = next(items)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield item

    def _on_signal(self, *_) -> None:
        self._requested = True
        if self._waiting:
            self._waiting = False
            raise Preempted  # in the main thread, which is waiting
