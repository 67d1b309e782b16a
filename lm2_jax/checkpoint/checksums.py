"""Checksums of a folder's files, so that what is read is what was written.

In a bucket they are those that the store keeps of each object (CRC-32C, MD5 or ETag, and the
number of bytes), so that a check is one listing and reads nothing. On a disk:

CRC-32 and the number of bytes: any change within four consecutive bytes is found for certain, any
other change with a probability of 1 - 2^-32. It is several times as fast as the hashes of the
standard library.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from lm2_jax.runtime import files
from lm2_jax.runtime.buckets import BucketPath

FILE = "checksums.json"  # {path: [bytes, CRC-32 in hexadecimal, or the store's checksum]}
CHUNK = 1 << 20


def write(folder: Path, parts: Iterable[str]) -> None:
    """Writes folder/checksums.json for all files of some subfolders, after syncing them to disk.

    Raises:
      OSError: also for data that the system had accepted but could not write.
    """
    if isinstance(folder, BucketPath):
        entries_of = _listed(folder)
        files.write_synced(folder / FILE, _text(
            {path: entry for path, entry in sorted(entries_of.items())
             if path.split("/")[0] in parts}))
        return
    paths = sorted(path.relative_to(folder).as_posix() for part in parts
                   for path in (folder / part).rglob("*") if path.is_file())
    entries = _of_all(folder, paths, sync=True)
    files.write_synced(folder / FILE, _text(dict(zip(paths, entries, strict=True))))


def find_problem(folder: Path, parts: Iterable[str] | None = None) -> str | None:
    """Compares a folder's files with its checksums.json.

    Args:
      parts: subfolders to check; None = all files that are listed.

    Returns:
      A short description of the first difference, None if there is none.
    """
    try:
        text = (folder / FILE).read_text("utf-8")
        expected = json.loads(text)
        if not isinstance(expected, dict) or _text(expected) != text:
            return f"{FILE} has changed bytes"
    except FileNotFoundError:
        return f"{FILE} is missing"
    except OSError as error:
        return f"{FILE} cannot be read ({error.strerror})"
    except ValueError:
        return f"{FILE} has changed bytes"
    if parts is not None:
        expected = {path: entry for path, entry in expected.items() if path.split("/")[0] in parts}
    actual = (_as_expected(folder, expected) if isinstance(folder, BucketPath)
              else _of_all(folder, list(expected), sync=False))
    problems = [_difference(path, entry, found) for (path, entry), found
                in zip(expected.items(), actual, strict=True) if not _equal(entry, found)]
    if not problems:
        return None
    others = len(problems) - 1
    return problems[0] + (f", and {others} more file{'s' * (others > 1)}" if others else "")


def _listed(folder: BucketPath) -> dict[str, list | str]:
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, path.checksum()]
            for path in folder.rglob("*")}


def _as_expected(folder: BucketPath, expected: Mapping[str, list]) -> list[list | str]:
    """An entry for each object; objects that were copied from a disk, as their checksums tell, are
    read."""
    listed = _listed(folder)
    found = [listed.get(path, "is missing") for path in expected]
    read = [path for path, entry in expected.items() if ":" not in entry[1] and path in listed]
    of_read = dict(zip(read, _of_all(cast(Path, folder), read, sync=False), strict=True))
    return [of_read.get(path, entry) for path, entry in zip(expected, found, strict=True)]


def _equal(expected: list, found: list | str) -> bool:
    """Of a folder that was copied from one kind of store to another the sizes alone are compared,
    since each keeps a checksum of another kind."""
    if isinstance(found, str):
        return False
    kinds = [entry[1].partition(":")[0] if ":" in entry[1] else "" for entry in (expected, found)]
    return expected == found or kinds[0] != kinds[1] and expected[0] == found[0]


def _text(entries: Mapping[str, list | str]) -> str:
    return json.dumps(entries, indent=0) + "\n"


def _of_all(folder: Path, paths: list[str], sync: bool) -> list[list | str]:
    """An entry for each file; without `sync` a description in the place of one that cannot be
    read."""
    def one(path: str) -> list | str:
        try:
            return _of_file(folder / path, sync)
        except OSError as error:
            if sync:
                raise
            return "is missing" if isinstance(error, FileNotFoundError) else (
                f"cannot be read ({error.strerror})")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def _of_file(path: Path, sync: bool) -> list:
    buffer, size, checksum = memoryview(bytearray(CHUNK)), 0, 0
    with path.open("rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while count := file.readinto(buffer):
            size, checksum = size + count, zlib.crc32(buffer[:count], checksum)
    return [size, f"{checksum:08x}"]


def _difference(path: str, expected: list, found: list | str) -> str:
    if isinstance(found, str):
        return f"{path} {found}"
    if found[0] != expected[0]:
        return f"{path} has {found[0]} bytes instead of {expected[0]}"
    return f"{path} has changed bytes"
