"""Reads the documents of a tokenized corpus."""

import functools
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from lm2_jax.data.shards import manifest as manifests
from lm2_jax.data.shards.manifest import INDEX, Manifest, Shard, digest_of
from lm2_jax.data.shards.writing import HEADER, LENGTHS, RECORDS
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import files, paths

OPEN_SHARDS = 256  # files of a process that are open at once
SAMPLED = 8  # records of a shard that are compared with the index when a corpus is opened


@dataclass(frozen=True)
class Documents:
    """A split of a tokenized corpus; it can be pickled, and opens its files when they are read,
    those of a bucket as copies on a local disk (`files.cached`).

    Attributes:
      folder: of the shards.
      manifest: of the folder.
      split: "train" or "held_out".
    """

    folder: Path
    manifest: Manifest
    split: str

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.manifest.shards[self.split]

    @functools.cached_property
    def first(self) -> np.ndarray:
        """Number of the first document of each shard, and of all documents: int64 [shards + 1]."""
        return np.cumsum([0, *(shard.documents for shard in self.shards)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("folder", "manifest", "split")}

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        """The document of a number: its token ids, int32, and how many of them are the prompt's
        (with what begins a document); 0 for a text.

        Raises:
          UserError: its record is damaged, or is not the one that was written.
        """
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        return self.read(shard, number - int(self.first[shard]))

    def read(self, shard: int, number: int) -> tuple[np.ndarray, int]:
        """The same for a document of a shard, both by number."""
        expected = self.shards[shard]
        path = self.folder / (expected.name + RECORDS)
        try:
            content = _reader(path, expected.sha256).read([number])[0]
        except (RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}, record {number}, is damaged: {reason}") from None
        if zlib.crc32(content) != self.index(shard)["crc32"][number]:
            raise UserError(f"{path}, record {number}, is not the one that was written there")
        tokens = np.frombuffer(content, np.dtype(self.manifest.job.dtype).newbyteorder("<"),
                               offset=HEADER.itemsize)
        return tokens.astype(np.int32), int(np.frombuffer(content, HEADER, 1)[0])

    def index(self, shard: int) -> np.ndarray:
        """The index of a shard, `manifest.INDEX` [documents]; mapped into memory."""
        expected = self.shards[shard]
        return _index(self.folder / (expected.name + LENGTHS), expected.index_sha256)

    def check(self) -> None:
        """Raises a UserError if a file is not that of the manifest.

        Sizes, indices and some records are compared, so that a large corpus takes no longer than a
        small one of as many documents. Every other record is compared when it is read.
        """
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._check, range(len(self.shards))))

    def _check(self, shard: int) -> None:
        expected = self.shards[shard]
        path, index = (self.folder / (expected.name + suffix) for suffix in (RECORDS, LENGTHS))
        for file in (path, index):
            if not file.is_file():
                raise UserFileNotFoundError(f"{file} is missing")
        if (size := path.stat().st_size) != expected.bytes:
            raise UserError(f"{path} has {size} bytes, not the {expected.bytes} of the manifest: "
                            "it was cut short or exchanged")
        if digest_of(index) != expected.index_sha256:
            raise UserError(f"{index} is not that of the manifest: it was changed or exchanged")
        for number in sorted({*np.linspace(0, expected.documents - 1, SAMPLED, dtype=int)}):
            self.read(shard, int(number))


def open_split(folder: str | Path, split: str, tokenizer: Tokenizer) -> Documents:
    """Opens a split of a folder that `lm2 data tokenize` made, and checks every shard.

    Raises:
      UserError: it was made with another tokenizer, the split is empty, or a shard is not that of
        the manifest.
    """
    folder = paths.of(folder)
    documents = Documents(folder, manifests.read(folder), split)
    made_with = documents.manifest.job.tokenizer
    if made_with != tokenizer.digest:
        raise UserError(f"{folder} was made with another tokenizer ({made_with[:16]}) than this "
                        f"run's ({tokenizer.digest[:16]}); take {folder}/tokenizer.json, or "
                        "tokenize the sources again")
    if not len(documents):
        raise UserError(f"{folder} has no {split.replace('_', '-')} documents; give another "
                        "--held-out to lm2 data tokenize")
    documents.check()
    return documents


@functools.lru_cache(OPEN_SHARDS)
def _reader(path: Path, version: str) -> array_record_module.ArrayRecordReader:
    # These options are those of the library for random access.
    return array_record_module.ArrayRecordReader(str(files.cached(path, version)),
                                                 "readahead_buffer_size:0,max_parallelism:0")


@functools.lru_cache(OPEN_SHARDS)
def _index(path: Path, version: str) -> np.ndarray:
    entries = np.load(files.cached(path, version), mmap_mode="r")
    if entries.dtype != INDEX:
        raise UserError(f"{path} is no index of this version")
    return entries
