"""SIGTERM: the moment at which a run saves and leaves, the same on every process."""

import signal

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):  # noqa: N818  # not an error
    """The run was asked to leave while it was at what can be taken up again."""


class Preemption:
    """While entered, SIGTERM does not end the process but asks it to leave.

    With several processes a signal to one reaches all through JAX's coordination service, which
    agrees on a question that none has asked yet: so all ask equally often.
    """

    def __init__(self):
        self._asked, self._before, self._questions = False, None, 0

    def __enter__(self):
        if not jax.distributed.is_initialized():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self) -> bool:
        """Whether to leave now; once it is so it stays so."""
        if jax.distributed.is_initialized():
            # The service answers yes to one number alone, the next after those it knows of, and
            # it knows of none before the first: a resumed run's steps would have passed it.
            self._questions += 1
            self._asked |= multihost_utils.reached_preemption_sync_point(self._questions)
        return self._asked

    def check(self) -> None:
        """Raises `Preempted` if it is time."""
        if self.reached():
            raise Preempted

    def _ask(self, *_) -> None:
        self._asked = True
