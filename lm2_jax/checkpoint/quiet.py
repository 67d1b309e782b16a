"""Keeps a failed save or restore from filling stderr."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def aborted_transfers() -> Iterator[None]:
    """Silences the reads and writes that an error aborts; its exception is raised all the same.

    Each is reported, in hundreds of lines: by orbax's logger (absl's), and by asyncio and Python
    when it is garbage collected. LM2_TRACEBACK=1 shows them.
    """
    if os.environ.get("LM2_TRACEBACK"):
        yield
        return
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def ignore_aborted(unraisable) -> None:
        if not isinstance(unraisable.exc_value, (RuntimeError, RuntimeWarning)):
            hook(unraisable)

    sys.unraisablehook = ignore_aborted
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
