"""Perplexity of the held-out documents of tokenized corpora."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from lm2_jax.config import Config
from lm2_jax.data.shards import manifest as manifests
from lm2_jax.data.shards import reading
from lm2_jax.data.shards.manifest import HELD_OUT
from lm2_jax.data.shards.reading import Documents
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.eval import identity, perplexity
from lm2_jax.eval.documents import Document, DocumentReader
from lm2_jax.eval.evaluator import Progress
from lm2_jax.eval.journal import Journal
from lm2_jax.eval.perplexity import Measured, Row
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import paths
from lm2_jax.types import Params


def corpora(config: Config) -> tuple[str, ...]:
    """The folders whose held-out documents are measured."""
    own = config.data.corpora if config.data.source == "corpus" else ()
    return config.eval.corpora or own


def empty_key(config: Config) -> str:
    """The key that is empty, so that no perplexity is measured; "" if there is something."""
    if not config.eval.memory:
        return "eval.memory"
    if not config.eval.max_documents:
        return "eval.max_documents"
    return "" if corpora(config) else "eval.corpora"


class Selection:
    """The documents of a corpus that are measured, those with the most segments first.

    Args:
      documents: of the held-out split, at least one.
      config: gives how many, and how much of each.
    """

    def __init__(self, documents: Documents, config: Config):
        self.documents, e, T = documents, config.eval, config.model.segment_length
        self.name, self._most = str(documents.folder), e.max_document_segments * T
        chosen = np.random.default_rng(e.seed).permutation(len(documents))[:e.max_documents]
        self._index = np.concatenate([documents.index(i) for i in range(len(documents.shards))])
        self.sizes = self._index["tokens"].astype(np.int64) - 1  # tokens that are read of each
        if self._most:
            self.sizes = np.minimum(self.sizes, self._most)
        self.numbers = sorted(chosen.tolist(), key=lambda number: (-self.sizes[number], number))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Document:
        number = self.numbers[place]
        tokens, prompt = self.documents[number]
        return Document(tokens[:self.sizes[number] + 1], prompt)

    @property
    def tokens(self) -> list[int]:
        """Tokens that are read of each document."""
        return self.sizes[self.numbers].tolist()

    def measured(self, place: int, nats: dict[str, np.ndarray], tokenizer: Tokenizer,
                 segment_length: int) -> Measured:
        """Tokens, words and bytes of the segments of a document, beside their nats.

        Words and bytes of the whole document, from the index, are divided among its segments as
        those of their decoded tokens are.
        """
        number, T = self.numbers[place], segment_length
        whole = Document(*self.documents[number])
        counted = whole.counted
        parts = [tokenizer.decode(whole.tokens[1:][first:first + T][counted[first:first + T]])
                 for first in range(0, len(counted), T)]
        tokens = whole.segment_sums(counted.astype(np.int64), T)
        S = len(next(iter(nats.values())))
        read = self[place]
        words, size = (
            _divided(int(self._index[name][number]), np.array(list(map(size, parts)), float),
                     tokens)[:S]
            for name, size in (("words", lambda text: len(text.split())),
                               ("bytes", lambda text: len(text.encode()))))
        return Measured(nats, read.segment_sums(read.counted.astype(np.int64), T), words, size,
                        number)


def _divided(total: int, shares: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Divides a total by shares; by tokens if there are no shares."""
    if not shares.sum():
        shares = tokens.astype(float)
    return total * shares / max(shares.sum(), 1.0)


class PerplexityEvaluator:
    """Perplexity by segment, with the memory carried and reset; an `Evaluator`."""

    name = "perplexity"

    def __init__(self, config: Config, tokens: Tokenizer, mesh: Mesh):
        self.config, self.tokens, self.mesh = config, tokens, mesh
        self.selections, self.notes = [], []
        for folder in () if empty_key(config) else corpora(config):
            if not config.eval.corpora and not manifests.read(paths.of(folder)).shards[HELD_OUT]:
                self.notes.append(f"{folder} has no held-out documents: no perplexity of it")
            else:
                documents = reading.open_split(folder, HELD_OUT, tokens)
                self.selections.append(Selection(documents, config))
        # A model without a memory reads the same documents once.
        has_memory = config.model.memory.num_layers > 0
        self.modes = list(dict.fromkeys(config.eval.memory)) if has_memory else ["carried"]

    @property
    def empty_key(self) -> str:
        return empty_key(self.config) or ("" if self.selections else "eval.corpora")

    def identity(self, params: Params, step: int) -> dict[str, object]:
        """Everything that the losses depend on; every process must call this."""
        facts = [[s.name, s.numbers, [shard.sha256 for shard in s.documents.shards]]
                 for s in self.selections]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return identity.identity(self.config, step, params, self.tokens.digest,
                                 {"documents": digest})

    def tokens_to_read(self, journal: Journal) -> tuple[int, int]:
        cells = [(mode, s) for s in self.selections for mode in self.modes]
        return (sum(sum(s.tokens) for _, s in cells),
                sum(sum(s.tokens[:len(journal.answers(_key(s, mode)))]) for mode, s in cells))

    def run(self, params: Params, *, journal: Journal | None = None,
            progress: Progress | None = None, between: Callable[[], None] | None = None
            ) -> Iterator[tuple[Row, list[Measured]]]:
        """Yields the rows of each corpus, with what was measured of its documents."""
        model = LanguageModel(self.config.model)
        reader = DocumentReader(model, params, self.mesh, pad_id=self.tokens.pad_id)
        for s in self.selections:
            with jax.set_mesh(self.mesh):
                nats = {mode: self._nats(reader, s, mode, journal, progress, between)
                        for mode in self.modes}
            measured = [s.measured(place, {mode: nats[mode][place] for mode in self.modes},
                                   self.tokens, self.config.model.segment_length)
                        for place in range(len(s))]
            for row in perplexity.rows(s.name, measured):
                yield row, measured

    def _nats(self, reader: DocumentReader, s: Selection, mode: str, journal: Journal | None,
              progress: Progress | None, between: Callable[[], None] | None) -> list[np.ndarray]:
        """The nats of the segments of each document."""
        found = [np.array(json.loads(line)) for line in
                 (journal.answers(_key(s, mode)) if journal else [])]

        def read(tokens: int) -> None:
            if progress:
                progress(tokens, f"{s.name} {mode}: {len(found)} of {len(s)} documents")

        read(0)
        while len(found) < len(s):
            places = range(len(found), min(len(found) + self.config.eval.batch_size, len(s)))
            losses = reader.losses([s[place] for place in places], wipe=mode == "reset",
                                   batch_size=min(self.config.eval.batch_size, len(s)),
                                   progress=read, between=between)
            if journal:
                journal.add(_key(s, mode), [json.dumps(loss.tolist()) for loss in losses])
            found += losses
            read(0)
        return found

    def remove(self, folder: Path) -> None:
        """Removes perplexity.json and documents.json."""
        for name in (perplexity.FILE, perplexity.DOCUMENTS):
            (folder / name).unlink(missing_ok=True)

    def write(self, folder: Path, results: Sequence[tuple[Row, list[Measured]]]) -> None:
        """Writes perplexity.json, and documents.json with the first row of a corpus."""
        measured = {row.corpus: of_documents for row, of_documents in results}
        if results[-1][0].corpus not in {row.corpus for row, _ in results[:-1]}:
            perplexity.write_sums(folder, [one for corpus, of_documents in measured.items()
                                           for one in perplexity.sums(corpus, of_documents)])
        perplexity.write_rows(folder, [row for row, _ in results])


def _key(s: Selection, mode: str) -> tuple[str, str, str]:
    return s.name, HELD_OUT, mode
