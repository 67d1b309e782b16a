"""Errors whose message `lm2` prints alone, in one line.

Every other exception is a programming error and keeps its traceback.
"""


class UserError(ValueError):
    """Something that was given is wrong; the message says what, where, and what would be right."""


class UserFileNotFoundError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""


class RunError(RuntimeError):
    """A run cannot go on, although nothing that was given is wrong; the message says why."""
