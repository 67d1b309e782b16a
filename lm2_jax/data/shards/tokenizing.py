"""Tokenizes documents in several processes, into shards that do not depend on their number.

This process reads the documents and writes the shards; the workers tokenize. Documents are taken in
order and a shard ends when its text has so many characters, so that which document is in which
shard depends on the sources alone. A shard that is done has a small file that says so, and a run
that was killed begins again at its first shard without one.
"""

import collections
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards.manifest import (
    HELD_OUT,
    SPLITS,
    TRAIN,
    Job,
    Manifest,
    Shard,
    digest_of,
)
from lm2_jax.data.shards.writing import LENGTHS, RECORDS, Record, ShardWriter, records
from lm2_jax.data.text import documents as texts
from lm2_jax.data.text.documents import Document
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import RunError, UserError
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import write_text

CHUNK = 2**20  # characters that a worker tokenizes at a time
_JOB = "job.json"  # of a folder that is not finished

Chunk = list[Document]
Tokenized = list[tuple[str, Record | None]]
"""The split and the record of each document of a chunk."""


def make_job(files: list[Path], tokenizer: Tokenizer, *, end: int, held_out: float,
             shard_characters: int) -> Job:
    """Describes a tokenization; every source is read once for its digest."""
    with ThreadPoolExecutor(8) as pool:  # hashlib computes outside of the interpreter's lock
        digests = list(pool.map(digest_of, files))
    sources = tuple({"name": path.as_posix(), "bytes": path.stat().st_size, "sha256": digest}
                    for path, digest in zip(files, digests, strict=True))
    return Job(tokenizer=tokenizer.digest, vocab_size=tokenizer.vocab_size,
               dtype="uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
               begin=tokenizer.bos_ids, end=end, held_out=held_out,
               shard_characters=shard_characters, sources=sources)


def begin(folder: Path, job: Job) -> dict[int, dict]:
    """Prepares a folder for a job; returns the parts of it that are done, by number.

    Raises:
      UserError: the folder holds shards of another job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _JOB
    if path.exists():
        there, here = json.loads(path.read_text("utf-8")), job.to_dict()
        if other := [key for key in here if there.get(key) != here[key]]:
            raise UserError(f"{folder} holds part of another tokenization (other "
                            f"{', '.join(other)}); use another --out, or delete that folder")
    else:
        if unknown := sorted(path.name for path in folder.glob("*" + RECORDS)):
            raise UserError(f"{folder} holds other shards ({unknown[0]}, ...); use another --out")
        write_text(path, json.dumps(job.to_dict()) + "\n")
    done = {}
    for path in sorted(folder.glob("part-*.json")):
        part = json.loads(path.read_text("utf-8"))
        shards = [Shard(**shard) for shard in part["shards"].values()]
        files = [(folder / (shard.name + suffix), digest) for shard in shards for suffix, digest in
                 ((RECORDS, shard.sha256), (LENGTHS, shard.index_sha256))]
        if all(file.is_file() and digest_of(file) == digest for file, digest in files):
            done[part["number"]] = part
    return done


def run(folder: Path, job: Job, done: dict[int, dict], num_processes: int,
        progress: Callable[[int, int], None] = lambda characters, tokens: None) -> Manifest:
    """Tokenizes the documents of a job that are not done yet, and writes the manifest.

    Args:
      folder: with the tokenizer in it, as `tokenizer.json`.
      done: parts that are done, from `begin`.
      num_processes: worker processes.
      progress: called with the bytes of the sources read so far, of compressed ones roughly, and
        the tokens written by this call.

    Raises:
      UserError: a source cannot be read.
      RunError: a worker process died.
    """
    done, position = dict(done), _Position(job)
    parts = _PartWriter(folder, done)
    pending: collections.deque[tuple[int, int, Future[Tokenized]]] = collections.deque()

    def take() -> None:
        number, read, future = pending.popleft()
        parts.add(number, future.result())
        progress(read, parts.tokens)

    pool = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), initializer=_prepare,
        initargs=(folder / "tokenizer.json", job))
    try:
        for number, chunk in _chunks(position.documents(), job.shard_characters):
            if number in done:
                continue
            pending.append((number, position.read, pool.submit(_tokenize, chunk)))
            if len(pending) > 2 * num_processes:
                take()
        while pending:
            take()
        parts.close()
    except BrokenProcessPool:
        raise RunError("a tokenizing process died, perhaps for want of memory; the same command "
                       "goes on from the last shard (--processes sets their number)") from None
    finally:
        pool.shutdown(cancel_futures=True)
    shards = {split: tuple(Shard(**part["shards"][split]) for _, part in sorted(done.items())
                           if split in part["shards"]) for split in SPLITS}
    manifest = Manifest(job, shards, sum(part["empty"] for part in done.values()))
    if not any(shards.values()):
        raise UserError("the sources hold no document with a token")
    manifest.write(folder)
    for path in (*folder.glob("part-*.json"), folder / _JOB):
        path.unlink()
    return manifest


class _Position:
    """How far the sources were read; `read` is in bytes."""

    def __init__(self, job: Job):
        self._sources, self.read = job.sources, 0

    def documents(self) -> Iterator[Document]:
        begun = 0
        for source in self._sources:
            characters = 0
            for document in texts.read(paths.of(source["name"])):
                characters += len(document.text)
                self.read = begun + min(characters, source["bytes"])
                yield document
            begun += source["bytes"]


def _chunks(documents: Iterable[Document], part_characters: int) -> Iterator[tuple[int, Chunk]]:
    """Yields the number of a part and consecutive documents of it, about CHUNK characters."""
    number = in_part = in_chunk = 0
    chunk: Chunk = []
    for document in documents:
        size = len(document.text) + len(document.prompt or "")
        chunk.append(document)
        in_chunk, in_part = in_chunk + size, in_part + size
        if in_chunk >= CHUNK or in_part >= part_characters:
            yield number, chunk
            chunk, in_chunk = [], 0
        if in_part >= part_characters:
            number, in_part = number + 1, 0
    if chunk:
        yield number, chunk


class _PartWriter:
    """Writes the shards of one part after the other, and adds each to `done`."""

    def __init__(self, folder: Path, done: dict[int, dict]):
        self._folder, self._done, self.tokens = folder, done, 0
        self._number, self._empty, self._writers = -1, 0, {}

    def add(self, number: int, tokenized: Tokenized) -> None:
        if number != self._number:
            self.close()
            self._number, self._empty = number, 0
            self._writers = {split: ShardWriter(self._folder, f"{split}-{number:05d}")
                             for split in SPLITS}
        for split, record in tokenized:
            if record is None:
                self._empty += 1
            else:
                self._writers[split].add(record)
                self.tokens += record.entry[0]

    def close(self) -> None:
        """Ends the part."""
        if not self._writers:
            return
        shards = {split: writer.close() for split, writer in self._writers.items()}
        part = {"number": self._number, "empty": self._empty,
                "shards": {split: asdict(shard) for split, shard in shards.items() if shard}}
        write_text(self._folder / f"part-{self._number:05d}.json", json.dumps(part) + "\n")
        self._done[self._number], self._writers = part, {}


def split_of(document: Document, fraction: float) -> str:
    """The split of a document, by a hash of its content: equal documents are in the same one."""
    content = f"{document.prompt or ''}\0{document.text}".encode()
    hashed = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return HELD_OUT if hashed < fraction * 2**64 else TRAIN


# In a worker: its tokenizer and job.
_worker: tuple[Tokenizer, Job]


def _prepare(tokenizer: Path, job: Job) -> None:
    global _worker
    # A worker computes on one core. Its pool of one thread takes a fifth less time than the
    # tokenizer without a pool (TOKENIZERS_PARALLELISM=false).
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "true"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the first process ends them
    _worker = tokenizers.load(tokenizer), job
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _tokenize(chunk: Chunk) -> Tokenized:
    tokenizer, job = _worker
    found = records(tokenizer, chunk, job.begin, job.end, job.dtype)
    return [(split_of(document, job.held_out), record)
            for document, record in zip(chunk, found, strict=True)]
