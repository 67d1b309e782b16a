"""JSON files, a list or JSON lines, read value by value."""

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from lm2_jax.data.text import compressed
from lm2_jax.errors import UserError

_CHUNK = 2**16  # bytes of a list that are read at once


def values(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSON list or of JSON lines (.gz, .zst or neither), one in memory at a time;
    of a list fractions are Decimals.

    Yields:
      Where the value stands, "path:LINE" or in a list "path, sample NUMBER", and the value.

    Raises:
      UserError: the file is not UTF-8 (a byte order mark is skipped), no whole compressed file, or
        what comes next is not JSON.
    """
    with compressed.opened(path) as file:
        if file.peek(len(BOM_UTF8))[:len(BOM_UTF8)] == BOM_UTF8:
            file.read(len(BOM_UTF8))
        yield from (_of_list if _begins_list(file) else _of_lines)(path, file)


def _begins_list(file: io.BufferedReader) -> bool:
    """Whether the first character is a bracket; blanks that fill the buffer before it are read."""
    while (buffered := file.peek(1)).isspace():
        file.read(len(buffered))
    return buffered.lstrip()[:1] == b"["


def _of_list(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for value in ijson.items(file, "item", buf_size=_CHUNK):
            number += 1
            yield f"{path}, sample {number}", value
    except ijson.JSONError as error:
        # What follows the first line points into the text; sometimes it is a bytes' repr.
        reason = re.split(r"\n|\\n", str(error))[0].removeprefix("b'").rstrip(". ")
        raise UserError(f"{path} is not a JSON list: {reason}"
                        + f", after sample {number}" * (number > 0)) from None


def _of_lines(path: Path, file: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number} is not readable as UTF-8 text: {error.reason}"
                            ) from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number} is not JSON: {error.msg}") from None
        yield f"{path}:{number}", value
