"""Writes shards: a record for each document, and an index of their lengths."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module

from lm2_jax.data.shards.manifest import INDEX, Shard, digest_of
from lm2_jax.data.text.documents import Document
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.runtime import files

# A record is read by itself; tokens are hardly smaller when compressed.
OPTIONS = "group_size:1,uncompressed"
RECORDS, LENGTHS = ".array_record", ".index.npy"
HEADER = np.dtype("<u4")  # the number of tokens before those that are trained on, 0 for a text


class Record(NamedTuple):
    """A tokenized document.

    Attributes:
      content: bytes of the record: `HEADER`, then the token ids.
      entry: in the index, as `INDEX` has it.
    """

    content: bytes
    entry: tuple[int, int, int, int]


def records(tokenizer: Tokenizer, documents: Sequence[Document], begin: Sequence[int], end: int,
            dtype: str) -> list[Record | None]:
    """Tokenizes documents; None for one without a token.

    Args:
      begin: ids before each document.
      end: id after each document.
      dtype: of the ids.
    """
    texts = [part for document in documents
             for part in ((document.text,) if document.prompt is None
                          else (document.prompt, document.text))]
    encoded = iter(tokenizer.encode_batch(texts))
    found: list[Record | None] = []
    for document in documents:
        prompt = next(encoded) if document.prompt is not None else []
        ids = next(encoded)
        if not ids:
            found.append(None)
            continue
        tokens = np.array([*begin, *prompt, *ids, end], np.dtype(dtype).newbyteorder("<"))
        first = len(begin) + len(prompt) if document.prompt is not None else 0
        content = HEADER.type(first).tobytes() + tokens.tobytes()
        found.append(Record(content, (len(tokens), len(document.text.encode()),
                                      len(document.text.split()), zlib.crc32(content))))
    return found


class ShardWriter:
    """Writes one shard; its files have their names only when they are whole.

    Args:
      folder: of the shards.
      name: of this one.
    """

    def __init__(self, folder: Path, name: str):
        self._name = name
        self._final = [folder / f"{name}{suffix}" for suffix in (RECORDS, LENGTHS)]
        scratch = files.scratch(folder)
        self._partial = [scratch / f".{path.name}.partial" for path in self._final]
        self._writer = array_record_module.ArrayRecordWriter(str(self._partial[0]), OPTIONS)
        self._entries: list[tuple[int, int, int, int]] = []

    def add(self, record: Record) -> None:
        self._writer.write(record.content)
        self._entries.append(record.entry)

    def close(self) -> Shard | None:
        """Gives the files their names; a shard without documents is None and has no files."""
        self._writer.close()
        if not self._entries:
            self._partial[0].unlink()
            return None
        entries = np.array(self._entries, INDEX)
        with self._partial[1].open("wb") as file:
            np.save(file, entries)
        records, index = self._partial
        shard = Shard(self._name, len(entries), int(entries["tokens"].sum(dtype=np.int64)),
                      records.stat().st_size, digest_of(records), digest_of(index))
        for partial, final in zip(self._partial, self._final, strict=True):
            files.move(partial, final)
        return shard
