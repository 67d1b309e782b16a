"""The manifest of a tokenized corpus: what its folder holds, and by what it was made."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime.files import write_text

FILE = "manifest.json"
TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)
VERSION = 1
INDEX = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("words", "<u4"), ("crc32", "<u4")])
"""A document in the index of its shard: its tokens with those that begin and end it; UTF-8 bytes
and words of its text, of which those of a prompt do not count; CRC-32 of its record."""


@dataclass(frozen=True)
class Shard:
    """An array_record file, NAME.array_record, and its index, NAME.index.npy.

    Attributes:
      name: of the files, without what follows the first dot.
      documents: number of records.
      tokens: of all documents.
      bytes: size of the array_record file.
      sha256: of the array_record file, hex.
      index_sha256: of the index, hex.
    """

    name: str
    documents: int
    tokens: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class Job:
    """All that the bytes of the shards depend on.

    Attributes:
      tokenizer: digest of the tokenizer.
      vocab_size: of the tokenizer.
      dtype: of the token ids, little-endian: "uint16" or "uint32".
      begin: ids before each document.
      end: id after each document.
      held_out: fraction of the documents in the held-out split.
      shard_characters: at which a shard is full.
      sources: {"name", "bytes", "sha256"} of each file, in order.
    """

    tokenizer: str
    vocab_size: int
    dtype: str
    begin: tuple[int, ...]
    end: int
    held_out: float
    shard_characters: int
    sources: tuple[dict, ...]
    version: int = VERSION

    def to_dict(self) -> dict:
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
      job: what the shards were made of.
      shards: of each split, in order.
      empty: documents without a token, which were left out.
    """

    job: Job
    shards: dict[str, tuple[Shard, ...]]
    empty: int

    def total(self, split: str, what: str) -> int:
        """The number of "documents", "tokens" or "bytes" of a split."""
        return sum(getattr(shard, what) for shard in self.shards[split])

    def write(self, folder: Path) -> None:
        counts = {split: {what: self.total(split, what) for what in ("documents", "tokens")}
                  for split in SPLITS}
        content = {"counts": counts, "empty_documents": self.empty, **self.job.to_dict(),
                   "shards": {split: list(map(dataclasses.asdict, self.shards[split]))
                              for split in SPLITS}}
        write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """Reads the manifest of a folder.

    Raises:
      UserError: there is none, or it is of another version.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserFileNotFoundError(f"no tokenized corpus at {folder} ({FILE} is missing): make "
                                    "one, or finish it, with lm2 data tokenize")
    try:
        content = json.loads(path.read_text("utf-8"))
        names = [field.name for field in dataclasses.fields(Job)]
        job = Job(**{name: content[name] for name in names})
        job = dataclasses.replace(job, begin=tuple(job.begin), sources=tuple(job.sources))
        shards = {split: tuple(Shard(**shard) for shard in content["shards"][split])
                  for split in SPLITS}
        empty = content["empty_documents"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest of this version: "
                        f"{type(error).__name__}: {error}") from None
    if job.version != VERSION:
        raise UserError(f"{path} is of version {job.version}; this version of lm2_jax reads "
                        f"{VERSION}: tokenize the sources again")
    return Manifest(job, shards, empty)


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
