"""Documents of text files, JSON, parquet and Arrow files, one in memory at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm2_jax.data.text import arrow, compressed, json_file, parquet
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

COLUMNS = ("text", "prompt", "completion")
_KINDS = (".txt", ".jsonl", ".json", ".parquet", ".arrow")
_COMPRESSED = (".txt", ".jsonl", ".json")
# Beside the data of a folder that Hugging Face's datasets wrote.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
_PARQUET_ROWS = 4096  # in memory at a time


class Document(NamedTuple):
    """A text, or a prompt and its completion.

    Attributes:
      text: of the document, or the completion.
      prompt: None for a text.
    """

    text: str
    prompt: str | None = None


def find(sources: Sequence[str | os.PathLike]) -> list[Path]:
    """The files of sources, in the order of these; those of a folder or pattern by their names.

    Args:
      sources: files, folders (read recursively) or glob patterns (`**` is any number of folders).

    Raises:
      UserError: nothing is there, a file is of an unknown kind, or a folder holds several splits.
    """
    found = []
    for source in sources:
        there = paths.matching(source)
        files = [file for path in there for file in _files(path, alone=len(there) == 1)]
        if not files:
            raise UserFileNotFoundError(f"no texts at {source}: expected files of "
                                        f"{', '.join(_KINDS)} (text and JSON also .gz or .zst)")
        found += files
    return found


def _files(path: Path, alone: bool) -> list[Path]:
    if not path.is_dir():
        if alone and not _is_text(path):
            raise UserError(f"{path} is of an unknown kind: expected {', '.join(_KINDS)} (text and "
                            "JSON also .gz or .zst)")
        return [path] if _is_text(path) else []
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        raise UserError(f"{path} holds several splits; name one of its folders: "
                        f"{', '.join(splits)}")
    return [file for file in sorted(path.rglob("*")) if file.is_file() and _is_text(file)
            and file.name not in _DESCRIPTIONS and not file.name.startswith(".")]


def _is_text(path: Path) -> bool:
    kind = compressed.without_suffix(path).suffix
    return kind in (_KINDS if path.suffix == kind else _COMPRESSED)


def read(path: Path) -> Iterator[Document]:
    """The documents of a file.

    A text file is one document. Rows of the other files have `text`, or else `prompt` and
    `completion`.

    Raises:
      UserError: the file cannot be read, is not UTF-8, or a row has other keys.
    """
    kind = compressed.without_suffix(path).suffix
    if kind == ".txt":
        with compressed.opened(path) as file:
            content = file.read()
        try:
            yield Document(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be read") from None
    elif kind in (".jsonl", ".json"):
        for where, value in json_file.values(path):
            yield _document(where, value)
    else:
        rows = (parquet.rows(path, (), _PARQUET_ROWS, optional=COLUMNS) if kind == ".parquet"
                else arrow.rows(path, COLUMNS))
        for number, row in enumerate(rows):
            yield _document(f"{path}, row {number}", row)


def _document(where: str, value: Any) -> Document:
    row = value if isinstance(value, dict) else {}
    text, prompt, completion = map(row.get, COLUMNS)
    if isinstance(text, str):
        return Document(_encodable(text))
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(_encodable(completion), _encodable(prompt))
    raise UserError(f'{where}: expected a string "text", or strings "prompt" and "completion"')


def _encodable(text: str) -> str:
    """The text with U+FFFD for half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
