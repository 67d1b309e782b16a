"""Reads a local copy of BABILong's published data sets, cell by cell.

A cell is one task at one length. RMT-team/babilong has data/qa1/4k.json, a list of samples;
babilong-1k-samples has 4k/qa1-00000-of-00001.parquet, in one part or several, or converted
4k/qa1/0000.parquet. Either order of folders, flat files as qa1_4k.jsonl, lists and lines of JSON
(.gz or not) and parquet are read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lm2_jax.data.text import json_file, parquet
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

COLUMNS = ("input", "question", "target")
NAMES = ("task", "length")  # that a sample may have as well
_SUFFIX = re.compile(r"\.(jsonl?(\.gz)?|parquet)$")
_TASK, _LENGTH = re.compile(r"qa\d+"), re.compile(r"\d+[kM]?")
_POINTER = b"version https://git-lfs"


def read(folder: str | Path, task: str, length: str) -> Iterator[tuple[str, dict]]:
    """Reads the samples of a cell one by one.

    Yields:
      The place of a sample, such as "path, sample 1", and the sample, which has COLUMNS.

    Raises:
      FileNotFoundError, ValueError: there is no such cell, or a file cannot be read.
    """
    for path in _files(paths.of(folder), task, length):
        for where, sample in rows(path):
            missing = [name for name in COLUMNS if name not in sample] \
                if isinstance(sample, dict) else COLUMNS
            if not isinstance(sample, dict) or missing:
                there = ", ".join(sample) if isinstance(sample, dict) else repr(sample)[:40]
                raise UserError(f"{where} has no {', '.join(missing)}, only {there}")
            yield where, sample


def rows(path: Path) -> Iterator[tuple[str, object]]:
    """Yields the samples of a file, unchecked, each with its place: "path:LINE" for JSON lines,
    else "path, sample NUMBER".

    Raises:
      ValueError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path} is a pointer of Git LFS, not the file itself; fetch it with "
                             "git lfs pull")
    if path.suffix != ".parquet":
        yield from json_file.values(path)
    else:
        found = parquet.rows(path, COLUMNS, 1, optional=NAMES)
        yield from ((f"{path}, sample {number}", row) for number, row in enumerate(found, 1))


def cell_of(path: Path) -> tuple[str, str] | None:
    """(task, length) as a file's name and its two folders tell them; None if they do not."""
    if not _SUFFIX.search(path.name):
        return None
    name = _SUFFIX.sub("", path.name).split("-")[0]  # without the number of the part
    *_, above, folder = ("", "", *path.parts[:-1])
    for pair in ((above, folder), (folder, name), name.split("_")):
        for cell in (tuple(pair), tuple(pair[::-1])):
            if len(cell) == 2 and _TASK.fullmatch(cell[0]) and _LENGTH.fullmatch(cell[1]):
                return cell
    return None


def _files(folder: Path, task: str, length: str) -> list[Path]:
    """The files of a cell, in order."""
    known = _cells(folder)
    if (task, length) in known:
        paths = known[task, length]
        if len({(path.parent, *path.suffixes[-2:]) for path in paths}) > 1:
            raise UserError(f"{task} at {length} is twice in {folder} ({paths[0]} and "
                             f"{paths[-1]}); keep one")
        return paths
    lengths = [at for name, at in known if name == task]
    tasks = list(dict.fromkeys(name for name, _ in known))
    there = f"has {task} at {', '.join(lengths)}" if lengths else \
        f"has tasks {', '.join(tasks)}" if tasks else \
        "has no files such as data/qa1/4k.json, 4k/qa1-00000-of-00001.parquet or qa1_4k.jsonl"
    raise UserFileNotFoundError(f"no {task} at {length} in {folder} (eval.samples), which {there}")


def _cells(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """The files of each (task, length)."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(path for below in ("*", "*/*", "*/*/*", "data/*/*/*")
                       for path in folder.glob(below)):
        if (cell := cell_of(path)) and path.is_file():
            found.setdefault(cell, []).append(path)
    return found
