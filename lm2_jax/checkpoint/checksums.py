"""Checksums of a folder's files, so that what is read is what was written.

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

FILE = "checksums.json"  # {path: [bytes, CRC-32 in hexadecimal]}
CHUNK = 1 << 20


def write(folder: Path, parts: Iterable[str]) -> None:
    """Writes folder/checksums.json for all files of some subfolders, after syncing them to disk.

    Raises:
      OSError: also for data that the system had accepted but could not write.
    """
    paths = sorted(path.relative_to(folder).as_posix() for part in parts
                   for path in (folder / part).rglob("*") if path.is_file())
    entries = _of_all(folder, paths, sync=True)
    with open(folder / FILE, "w", encoding="utf-8") as file:
        file.write(_text(dict(zip(paths, entries, strict=True))))
        file.flush()
        os.fsync(file.fileno())


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
    actual = _of_all(folder, list(expected), sync=False)
    problems = [_difference(path, entry, found) for (path, entry), found
                in zip(expected.items(), actual, strict=True) if found != entry]
    if not problems:
        return None
    others = len(problems) - 1
    return problems[0] + (f", and {others} more file{'s' * (others > 1)}" if others else "")


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
    with open(path, "rb", buffering=0) as file:
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
