"""Small tokenized corpora, made in this process."""

import concurrent.futures
import functools
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from lm2_jax.commands.tokenize import tokenize
from lm2_jax.config import DataConfig
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.prose import generator
from lm2_jax.data.shards import batches, tokenizing
from lm2_jax.data.shards.batches import CorpusBatches

WORDS = generator.sentences(0, 600)


class InProcess:
    """In place of a pool of processes; the calls are made at once."""

    def __init__(self, num_processes, context, initializer, initargs):
        path, job = initargs
        tokenizing._worker = tokenizers.load(path), job

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options):
        pass


def make(sources, out, tokenizer=None, **options):
    with mock.patch.object(tokenizing, "ProcessPoolExecutor", InProcess):
        return tokenize(list(map(str, sources)), str(tokenizer or words()), out,
                        console=mock.Mock(is_terminal=False), **options)


@functools.cache
def temporary():
    return Path(tempfile.mkdtemp(prefix="lm2_jax_shards_"))


@functools.cache
def words():
    """A folder with a byte-level tokenizer of 400 tokens."""
    folder = temporary() / "words"
    tokenizers.train(WORDS, kind="bpe", vocab_size=400).save(folder / "tokenizer.json")
    return folder


def texts(seed, count, longest=12):
    """Documents of 1 to `longest` sentences, no two alike."""
    rng = np.random.default_rng(seed)
    return [f"{seed}/{i}: " + " ".join(rng.choice(WORDS, rng.integers(1, longest + 1)))
            for i in range(count)]


def prompts(count):
    return [{"prompt": f"{i} plus {i} makes", "completion": f" {2 * i}, of course."}
            for i in range(count)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n"
                            for row in rows), "utf-8")
    return path


@functools.cache
def corpus(name):
    """The folder of a corpus of several shards: "a" (40 texts), "b" (25 texts), "mixed"."""
    rows = {"a": lambda: texts(1, 40), "b": lambda: texts(2, 25),
            "mixed": lambda: [*texts(3, 6), *prompts(12)]}[name]()
    source = write(temporary() / f"{name}.jsonl", rows)
    make([source], temporary() / name, held_out=0.2, shard_characters=4000)
    return temporary() / name


def source_of(*names, seed=0, segment_length=16, batch_size=4, rows=None, num_steps=1000,
              curriculum=((0, 4),), **changes):
    folders = tuple(str(name if isinstance(name, Path) else corpus(name)) for name in names)
    config = DataConfig(source="corpus", corpora=folders, curriculum=curriculum, **changes)
    mixture = batches.open_corpora(config, batches.load_tokenizer(config, ("word", "bpe")))
    return CorpusBatches(config, mixture, segment_length, seed, batch_size, num_steps, rows)
