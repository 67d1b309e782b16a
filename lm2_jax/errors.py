"""Errors that are the user's to mend: `lm2` prints their message alone, in one line.

Every other exception is a programming error and keeps its traceback.
"""


class UserError(ValueError):
    """Something that was given is wrong; the message says what, where, and what would be right."""


class UserFileNotFoundError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""
