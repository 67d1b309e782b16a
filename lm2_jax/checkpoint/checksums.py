"""Checksums of a folder's files, so that what is read is what was written.

CRC-32 and the number of bytes: any change within four bytes in a row is found for certain, any
other but for one in 2^32; it is several times as fast as the hashes of the standard library.
"""

import json
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILE = "checksums.json"  # {path: [bytes, CRC-32 in hexadecimal]}
CHUNK = 1 << 20


def write(folder: Path) -> None:
    """Writes folder/checksums.json, when all the files are on the disk.

    Raises:
      OSError: also for what the system had only promised to write, and could not.
    """
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                   if path.is_file() and path.name != FILE)
    found = _of_all(folder, paths, sync=True)
    with open(folder / FILE, "w", encoding="utf-8") as file:
        file.write(_text(dict(zip(paths, found, strict=True))))
        file.flush()
        os.fsync(file.fileno())


def problem(folder: Path, parts: Iterable[str] | None = None) -> str | None:
    """What is wrong with the files that folder/checksums.json lists, in a few words.

    Args:
      parts: folders in it to look at; None = all files.

    Returns:
      None if nothing is wrong.
    """
    try:
        text = (folder / FILE).read_text("utf-8")
        wanted = json.loads(text)
        if not isinstance(wanted, dict) or _text(wanted) != text:
            return f"{FILE} has changed bytes"
    except FileNotFoundError:
        return f"{FILE} is missing"
    except OSError as error:
        return f"{FILE} cannot be read ({error.strerror})"
    except ValueError:
        return f"{FILE} has changed bytes"
    if parts is not None:
        wanted = {path: value for path, value in wanted.items() if path.split("/")[0] in parts}
    found = _of_all(folder, list(wanted), sync=False)
    wrong = [_difference(path, value, is_)
             for (path, value), is_ in zip(wanted.items(), found, strict=True) if is_ != value]
    if not wrong:
        return None
    others = len(wrong) - 1
    return wrong[0] + (f", and {others} more file{'s' * (others > 1)}" if others else "")


def _text(checksums: dict[str, list]) -> str:
    return json.dumps(checksums, indent=0) + "\n"


def _of_all(folder: Path, paths: list[str], sync: bool) -> list[list | str]:
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


def _difference(path: str, wanted: list, found: list | str) -> str:
    if isinstance(found, str):
        return f"{path} {found}"
    if found[0] != wanted[0]:
        return f"{path} has {found[0]} bytes instead of {wanted[0]}"
    return f"{path} has changed bytes"
