"""Writes files and folders as a whole, or not at all; reads those of a bucket as local files."""

import atexit
import contextlib
import fnmatch
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths
from lm2_jax.runtime.buckets import BucketPath


@contextlib.contextmanager
def replacing(path: str | os.PathLike | BucketPath) -> Iterator[Path]:
    """Yields a temporary local path, whose file replaces `path` if there was no error.

    A reader sees the old file or the new one, never part of one. The folder is created if it does
    not exist.
    """
    path = paths.of(path)
    if isinstance(path, BucketPath):
        with _local_file(path.name) as partial:
            yield partial
            path.upload(partial)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike | BucketPath, text: str) -> None:
    """Replaces a file, as `replacing` does, by one with this text in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")


@contextlib.contextmanager
def written(path: str | os.PathLike | BucketPath) -> Iterator[TextIO]:
    """Opens a text file for writing. What is written is in a local file at once, in a bucket when
    the context ends, also after an error."""
    path = paths.of(path)
    if not isinstance(path, BucketPath):
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    with _local_file(path.name) as temporary:
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                yield file
        finally:
            path.upload(temporary)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike | BucketPath) -> Iterator[Path]:
    """Yields a temporary local folder, which becomes `path` if there was no error.

    In a bucket its files appear one after another, those directly in the folder last.

    Raises:
      UserError: if `path` exists and is not an empty folder.
    """
    path = paths.of(path).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is not empty; give a folder that is, or that does not exist")
    if isinstance(path, BucketPath):
        with tempfile.TemporaryDirectory(prefix="lm2_jax_") as temporary:
            partial = Path(temporary)
            yield partial
            upload_folder(partial, path)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_synced(path: Path, text: str) -> None:
    """Writes a file, in place, and returns when it is on the disk or in the bucket."""
    if isinstance(path, BucketPath):
        path.write_text(text)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def upload_folder(folder: Path, to: BucketPath) -> None:
    """Copies the files of a local folder, large ones and those of subfolders first."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: (path.parent == folder, -path.stat().st_size)):
        (to / path.relative_to(folder).as_posix()).upload(path)


@contextlib.contextmanager
def local_folder(path: Path) -> Iterator[Path]:
    """Yields a local folder that becomes `path`; `path` itself if that is local.

    For a library that writes only to a local disk. A folder in a bucket gets the files when the
    context ends, also after an error.
    """
    if not isinstance(path, BucketPath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lm2_jax_") as temporary:
        try:
            yield Path(temporary)
        finally:
            upload_folder(Path(temporary), path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Yields a local copy of a file or of all files of a folder; `path` itself if that is local."""
    if not isinstance(path, BucketPath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lm2_jax_") as temporary:
        to = Path(temporary) / path.name
        if path.is_file():
            path.download(to)
        else:
            for file in path.rglob("*"):
                target = to / file.relative_to(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.download(target)
        yield to


def cached(path: Path, version: str, folder: BucketPath | None = None) -> Path:
    """The local copy of a file in a bucket, which is made once per machine; `path` if local.

    The folder of the copies is $LM2_CACHE, by default ~/.cache/lm2_jax.

    Args:
      version: names what the file holds, such as its checksum; another one is another copy.
      folder: whose files of this version have one folder.
    """
    if not isinstance(path, BucketPath):
        return path
    root = Path(os.environ.get("LM2_CACHE") or "~/.cache/lm2_jax").expanduser()
    copy = root / hashlib.sha256(f"{folder or path}\n{version}".encode()).hexdigest()[:32]
    if not (copy / path.name).exists():
        with replacing(copy / path.name) as partial:
            path.download(partial)
    return copy / path.name


def cached_folder(path: Path, patterns: Sequence[str]) -> Path:
    """The same for the files of a folder whose names match, but not for those of its folders.

    Raises:
      UserFileNotFoundError: if there are none.
    """
    if not isinstance(path, BucketPath):
        return path
    there = [file for file in path.glob("*") if file.is_file()]
    found = [file for file in there
             if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)]
    if not found:
        raise UserFileNotFoundError(f"{path} holds none of {', '.join(patterns)}")
    version = "\n".join(f"{file.name} {file.checksum()}" for file in sorted(found))
    return [cached(file, version, path) for file in found][0].parent


def copy(path: Path, to: Path) -> None:
    """Copies a file; either may be in a bucket."""
    if isinstance(to, BucketPath) and not isinstance(path, BucketPath):
        to.upload(path)
        return
    with replacing(to) as partial:
        if isinstance(path, BucketPath):
            path.download(partial)
        else:
            shutil.copyfile(path, partial)


def scratch(folder: Path, once: bool = False) -> Path:
    """A local folder for the unfinished files of a folder, which `move` gives their places: the
    folder itself; for one in a bucket a new one, removed when this process ends.

    Args:
      once: the same for all calls of all processes of this user and machine, and kept.
    """
    if not isinstance(folder, BucketPath):
        return folder
    if once:
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        kept = Path(tempfile.gettempdir()) / f"lm2_jax_{os.getuid()}_{name}"
        kept.mkdir(exist_ok=True)
        return kept
    made = tempfile.mkdtemp(prefix="lm2_jax_")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def move(path: Path, to: Path) -> None:
    """Gives a local file another place, where it replaces what is there."""
    if isinstance(to, BucketPath):
        to.upload(path)
        path.unlink()
    else:
        os.replace(path, to)


def remove_folder(folder: Path, first: str = "") -> None:
    """Removes a folder and what is in it; ignores what cannot be removed from a local disk.

    Args:
      first: name of the file that a bucket loses before the others, for want of which the rest is
        no longer taken for something whole.
    """
    if isinstance(folder, BucketPath):
        folder.remove_below(first)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def rename_folder(folder: Path, new: Path, last: str = "") -> None:
    """Gives a folder another name. In a bucket its objects are copied, that named `last` after the
    others, and then deleted, that one first."""
    if isinstance(folder, BucketPath) and isinstance(new, BucketPath):
        folder.copy_below(new, last)
        folder.remove_below(last)
    else:
        folder.rename(new)


@contextlib.contextmanager
def _local_file(name: str) -> Iterator[Path]:
    """Yields a path of a temporary local file, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lm2_jax_") as folder:
        yield Path(folder) / name
