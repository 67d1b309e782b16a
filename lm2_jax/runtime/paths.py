"""Paths that a user gives: they are on a file system of this machine, and can hold checkpoints."""

import glob
import os
import re
from pathlib import Path

from lm2_jax.errors import UserError

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local(path: str | os.PathLike) -> Path:
    """The path with `~` expanded.

    Raises:
      UserError: for a URL, or a path that TensorStore, which reads and writes checkpoints, refuses.
    """
    text = os.fspath(path)
    if SCHEME.match(text):
        raise UserError(f"{text} is a URL; give a path on a file system of this machine (buckets "
                        "are not supported yet, but may be mounted)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!r} is not UTF-8; give a path that is") from None
    if "\\" in text:
        raise UserError(f"{text} has a backslash, with which no checkpoint can be read or written; "
                        "give a path without one")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such home directory") from None


def for_checkpoints(path: str | os.PathLike) -> Path:
    """The same for a folder in which checkpoints are saved or restored.

    orbax uses the absolute path as a pattern when it looks for the files of each process.
    """
    path = local(path)
    absolute = os.path.abspath(local(os.path.abspath(path)))
    if glob.escape(absolute) != absolute:
        raise UserError(f"{absolute} has one of the characters * ? [, with which checkpoints "
                        "cannot be saved or restored; give a path without them, which may be a "
                        "symbolic link to this one")
    return path
