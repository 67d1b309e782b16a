"""Paths that a user gives: local ones and URLs of buckets, checked before anything is done."""

import glob
import os
import re
from pathlib import Path
from typing import cast

from lm2_jax.errors import UserError
from lm2_jax.runtime.buckets import BucketPath

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def of(path: "str | os.PathLike | BucketPath") -> Path:
    """The path of a file or folder, with `~` expanded.

    Returns:
      A `pathlib.Path`; for a URL a `BucketPath`, which has the same methods.

    Raises:
      UserError: for a URL of another kind than gs:// and s3://, one whose library is not
        installed, or a path that TensorStore, which reads and writes checkpoints, refuses.
    """
    if isinstance(path, BucketPath):
        return cast(Path, path)
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!r} is not UTF-8; give a path that is") from None
    if "\\" in text:
        raise UserError(f"{text} has a backslash, with which no checkpoint can be read or written; "
                        "give a path without one")
    if SCHEME.match(text):
        return cast(Path, BucketPath(text))
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such home directory") from None


def local(path: "str | os.PathLike | BucketPath", what: str) -> Path:
    """The same for a path that must be on a file system of this machine.

    Args:
      what: the path is, for the message: "the config".

    Raises:
      UserError: if it is a URL.
    """
    found = of(path)
    if in_bucket(found):
        raise UserError(f"{found}: {what} must be a local file, not one in a bucket")
    return found


def matching(pattern: str | os.PathLike) -> list[Path]:
    """The file or folder of this name, or else those that match it as a pattern, sorted; `**` is
    any number of folders."""
    path = of(pattern)
    if path.exists():
        return [path]
    if isinstance(path, BucketPath):
        return cast(list[Path], path.matching())
    return [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]


def in_bucket(path: object) -> bool:
    return isinstance(path, BucketPath)


def for_checkpoints(path: "str | os.PathLike | BucketPath") -> Path:
    """The same as `of` for a folder in which checkpoints are saved or restored.

    orbax uses the absolute path as a pattern when it looks for the files of each process, and reads
    a URL as one of the web.
    """
    path = of(path)
    if isinstance(path, BucketPath):
        if not path.key:
            raise UserError(f"{path} is a whole bucket; give a folder in it, as {path}/run")
        if found := re.search(r"[*?\[#%;]", path.key):
            raise UserError(f"{path} has the character {found[0]}, with which checkpoints cannot "
                            "be saved or restored in a bucket; give a path without it")
        return path
    absolute = os.path.abspath(of(os.path.abspath(path)))
    if glob.escape(absolute) != absolute:
        raise UserError(f"{absolute} has one of the characters * ? [, with which checkpoints "
                        "cannot be saved or restored; give a path without them, which may be a "
                        "symbolic link to this one")
    return path
