"""`lm2 data tokenize`: texts to shards of token ids, which `data.source=corpus` trains on."""

import argparse
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import manifest as manifests
from lm2_jax.data.shards import tokenizing
from lm2_jax.data.shards.manifest import HELD_OUT, SPLITS, Manifest
from lm2_jax.data.shards.reading import Documents
from lm2_jax.data.text import documents as texts
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.runtime import children, locks, paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar

TRAINED_ON = 5 * 10**7  # characters of the sources that a tokenizer is trained on


def tokenize(sources: Sequence[str], tokenizer: str, out: str | Path, *, held_out: float = 0.0,
             end: str = "", vocab_size: int = 4096, shard_characters: int = 64_000_000,
             num_processes: int = 0, console: Console | None = None) -> Manifest:
    """Tokenizes texts into a folder of shards; a call that was killed goes on where it was.

    Args:
      sources: files, folders and glob patterns of texts (`lm2_jax.data.text.documents`).
      tokenizer: a tokenizer.json, a folder that has one, or "bpe", which trains one on the first
        TRAINED_ON characters of the sources.
      out: the folder; the tokenizer is saved beside the shards.
      held_out: fraction of the documents that are put into the held-out split, chosen by a hash of
        their content.
      end: the token that ends a document; "" = the tokenizer's EOS, or `<end>` if it names none.
      vocab_size: of a tokenizer that is trained.
      shard_characters: text of a shard.
      num_processes: that tokenize; 0 = as many as there are cores.

    Raises:
      UserError: a source or the tokenizer cannot be read, or `out` holds something else, or shards
        that were changed.
    """
    console, folder = console or Console(), paths.of(out)
    num_processes = num_processes or len(children.cores()) or os.cpu_count() or 1
    if not 0 <= held_out <= 1:
        raise UserError(f"--held-out is {held_out}; it must be from 0 to 1")
    if shard_characters < 1:
        raise UserError(f"--shard-characters is {shard_characters}; it must be at least 1")
    files = texts.find(sources)
    with locks.locked(folder, "lm2 data tokenize", "--out"):
        words = _tokenizer(tokenizer, files, folder, vocab_size, console)
        job = tokenizing.make_job(files, words, end=_end_id(words, end), held_out=held_out,
                                  shard_characters=shard_characters)
        if (folder / manifests.FILE).exists():
            manifest = manifests.read(folder)
            if manifest.job != job:
                raise UserError(f"{folder} holds another tokenized corpus; use another --out")
            for split in () if paths.in_bucket(folder) else filter(manifest.shards.get, SPLITS):
                Documents(folder, manifest, split).check()
        else:
            done = tokenizing.begin(folder, job)
            words.save(folder / "tokenizer.json")
            manifest = _run(folder, job, done, num_processes, console)
    for split in SPLITS:
        documents, tokens = (manifest.total(split, what) for what in ("documents", "tokens"))
        console.print(f"{folder}: {split}: {documents:,} documents, {tokens:,} tokens in "
                      f"{len(manifest.shards[split])} shards ({job.dtype})")
    if not manifest.shards[HELD_OUT] and held_out:
        console.print("no document fell into the held-out split; raise --held-out, or give more "
                      "documents")
    return manifest


def _run(folder: Path, job: manifests.Job, done: dict[int, dict], num_processes: int,
         console: Console) -> Manifest:
    if done:
        console.print(f"{folder}: {len(done)} parts are there already")
    began = time.perf_counter()
    bar = Bar("tokenize", sum(source["bytes"] for source in job.sources) // 10**6, 0, console,
              "MB")

    def progress(read: int, tokens: int) -> None:
        rate = tokens / (time.perf_counter() - began)
        bar.update(read // 10**6, f"{tokens:,} tokens, {rate:,.0f} tokens/s")

    try:
        return tokenizing.run(folder, job, done, num_processes, progress)
    finally:
        bar.close()


def _tokenizer(name: str, files: Sequence[Path], folder: Path, vocab_size: int,
               console: Console) -> Tokenizer:
    if name != "bpe":
        return tokenizers.load(name)
    if (path := folder / "tokenizer.json").exists():  # of the call that is resumed
        words = tokenizers.load(path)
        console.print(f"{path} is used as it is, with {words.vocab_size} tokens")
        return words

    def some():
        left = TRAINED_ON
        for document in itertools.chain.from_iterable(map(texts.read, files)):
            yield from filter(None, (document.prompt, document.text))
            left -= len(document.text)
            if left < 0:
                return

    return tokenizers.train(some(), kind="bpe", vocab_size=vocab_size)


def _end_id(words: Tokenizer, end: str) -> int:
    if not end:
        return words.id_of(words.eos) if words.eos else words.end_id
    try:
        return words.id_of(end)
    except ValueError:
        raise UserError(f"--end is {end!r}, which is no token of the tokenizer") from None


EPILOG = """Text files (.txt) are one document each. Rows of .jsonl, .json, .parquet and .arrow
files have "text", or "prompt" and "completion"; of the latter only the completion is trained on.
Folders are read recursively; .txt and JSON files may be compressed (.gz, .zst). A command that was
interrupted is given again, and goes on at the first shard that is not done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", help="files, folders or glob patterns of texts")
    parser.add_argument("--tokenizer", required=True,
                        help="a tokenizer.json or its folder; bpe trains one on the sources")
    parser.add_argument("--out", required=True, metavar="SHARDS", help="folder of the shards")
    parser.add_argument("--held-out", type=float, default=0.0, metavar="FRACTION",
                        help="fraction of the documents that are held out of training (1 = all)")
    parser.add_argument("--end", default="", metavar="TOKEN",
                        help="token that ends a document (the tokenizer's EOS)")
    parser.add_argument("--vocab-size", type=int, default=4096, metavar="N",
                        help="of a tokenizer that is trained (%(default)s)")
    parser.add_argument("--shard-characters", type=int, default=64_000_000, metavar="N",
                        help="characters of text in a shard (%(default)s)")
    parser.add_argument("--processes", type=int, default=0, metavar="N",
                        help="processes that tokenize (as many as there are cores)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    tokenize(args.sources, args.tokenizer, args.out, held_out=args.held_out, end=args.end,
             vocab_size=args.vocab_size, shard_characters=args.shard_characters,
             num_processes=args.processes)
    return 0
