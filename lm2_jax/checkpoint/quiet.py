"""Keeps a failed save or restore from filling stderr."""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator

LIBRARIES = "orbax", "tensorstore"
_kept: list[contextlib.ExitStack] = []


class _DropOrbax(logging.Filter):
    """Drops the records of orbax, and those of asyncio about a task or future of orbax."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio":
            # A future that a thread failed is named by its exception alone, whose traceback then
            # shows where it comes from.
            text = record.getMessage() + "".join(
                traceback.format_exception(record.exc_info[1]) if record.exc_info else "")
        else:
            text = record.pathname
        return not any(name in text for name in LIBRARIES)


@contextlib.contextmanager
def aborted_transfers() -> Iterator[None]:
    """Silences the reads and writes that an error aborts; its exception is raised all the same.

    Each is reported, in hundreds of lines: by orbax's logger (absl's), and by asyncio and Python
    when it is garbage collected, at any later time. LM2_TRACEBACK=1 shows them.
    """
    if os.environ.get("LM2_TRACEBACK"):
        yield
        return
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    drop_orbax, hook = _DropOrbax(), sys.unraisablehook

    def ignore_aborted(unraisable) -> None:
        if not isinstance(unraisable.exc_value, (RuntimeError, RuntimeWarning)):
            hook(unraisable)

    sys.unraisablehook = ignore_aborted
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
            for logger in loggers:
                logger.addFilter(drop_orbax)
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(drop_orbax)


def keep(stack: contextlib.ExitStack) -> None:
    """Keeps `aborted_transfers`, entered in a stack, in force until the process ends.

    After a failure, transfers that it did not wait for may be reported at any time.
    """
    entered = stack.pop_all()
    if not _kept:
        _kept.append(entered)
