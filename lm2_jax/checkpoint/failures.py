"""Why a checkpoint could not be saved or read, in one line."""

import os
import re

from lm2_jax.errors import RunError
from lm2_jax.runtime import store_errors


class SaveError(RunError):
    """A checkpoint could not be saved; one line with the step, the cause and the newest step."""


class FailedElsewhere(Exception):
    """Another process could not write its part."""


def cause(error: BaseException, in_bucket: bool = False) -> str:
    """The cause in a few words: those of the operating system, if the error comes from there."""
    if in_bucket and not isinstance(error, FailedElsewhere):
        return store_errors.cause(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))  # in TensorStore's messages
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FailedElsewhere):
        return str(error)
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first[:300]}"
