"""Collects SIGINT and SIGTERM for a loop that looks at them."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Signals:
    """The numbers of the signals that were received, in order."""

    def __init__(self):
        self.received: list[int] = []
        self._event = threading.Event()

    def receive(self, number: int, _) -> None:
        self.received.append(number)
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Waits so long, or until the next signal."""
        self._event.wait(seconds)
        self._event.clear()


@contextlib.contextmanager
def collected() -> Iterator[Signals]:
    """A context in which SIGINT and SIGTERM are only noted; the main thread must enter it.

    A signal that is ignored, as SIGINT is in the background of a shell script, stays ignored.
    """
    signals = Signals()
    before = {number: signal.signal(number, signals.receive)
              for number in (signal.SIGINT, signal.SIGTERM)
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
