"""BABILong's samples as published: a local copy of its data sets, read cell by cell.

A cell is one task at one length. RMT-team/babilong has data/qa1/4k.json, a list of samples;
babilong-1k-samples has 4k/qa1-00000-of-00001.parquet, in one part or several. Either order of
task and length, either format and JSON lines are read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lm2_jax.data import parquet

COLUMNS = ("input", "question", "target")
_SUFFIXES = (".json", ".jsonl", ".parquet")
_PARQUET_ROWS = 8  # read at once; a sample may have 40 MB
_CHUNK = 2**16  # characters of JSON
_POINTER = "version https://git-lfs"


def read(folder: str | Path, task: str, length: str) -> Iterator[tuple[str, dict]]:
    """Samples one by one, each with where it stands; a file is read as far as they are taken.

    Yields:
      "path, sample 1" and the sample, which has COLUMNS.

    Raises:
      FileNotFoundError, ValueError: no such cell, or a file that cannot be read; in one line
        with the path and what is there.
    """
    for path in _files(Path(folder), task, length):
        with open(path, "rb") as file:
            if file.read(len(_POINTER)) == _POINTER.encode():
                raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; fetch it "
                                 "with git lfs pull")
        samples = _objects(path) if path.suffix != ".parquet" else (
            parquet.rows(path, COLUMNS, _PARQUET_ROWS))
        for number, sample in enumerate(samples, 1):
            yield f"{path}, sample {number}", sample


def _files(folder: Path, task: str, length: str) -> list[Path]:
    """The files of a cell, in order."""
    known = _cells(folder)
    if (task, length) in known:
        paths = known[task, length]
        if len({(path.parent, path.suffix) for path in paths}) > 1:
            raise ValueError(f"{task} at {length} is twice in {folder} ({paths[0]} and "
                             f"{paths[-1]}); keep one")
        return paths
    lengths = [at for name, at in known if name == task]
    tasks = list(dict.fromkeys(name for name, _ in known))
    there = f"has {task} at {', '.join(lengths)}" if lengths else \
        f"has tasks {', '.join(tasks)}" if tasks else \
        "has no files such as data/qa1/4k.json or 4k/qa1-00000-of-00001.parquet"
    raise FileNotFoundError(f"no {task} at {length} in {folder} (eval.samples), which {there}")


def _cells(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """The files of each (task, length)."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted([*folder.glob("*/*"), *folder.glob("data/*/*")]):
        if path.suffix in _SUFFIXES:
            names = path.parent.name, path.stem.split("-")[0]
            task, length = names if names[0].startswith("qa") else names[::-1]
            if task.startswith("qa"):
                found.setdefault((task, length), []).append(path)
    return found


def _objects(path: Path) -> Iterator[dict]:
    """The samples of a list or of lines."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, value in enumerate(_values(file), 1):
                missing = [name for name in COLUMNS if name not in value] \
                    if isinstance(value, dict) else COLUMNS
                if missing:
                    there = ", ".join(value) if isinstance(value, dict) else repr(value)[:40]
                    raise ValueError(f"{path}, sample {number} has no {', '.join(missing)}, only "
                                     f"{there}")
                yield value
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a list or lines of JSON objects: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason}") from None


def _values(file: TextIO) -> Iterator:
    """JSON values, each as soon as it is whole.

    What is read at once doubles until a value is whole, so that a long one is scanned only a few
    times.
    """
    decoder, text, size = json.JSONDecoder(), "", _CHUNK
    while True:
        text = text.lstrip("[], \t\r\n")
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError:
            more = file.read(size)
            if not more and text:
                raise
            if not more:
                return
            text, size = text + more, 2 * size
        else:
            yield value
            text, size = text[end:], _CHUNK
