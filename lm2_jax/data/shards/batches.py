"""Batches of tokenized corpora: those of a step are a pure function of seed and step."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import grain
import numpy as np

from lm2_jax.config import DataConfig
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import reading
from lm2_jax.data.shards.manifest import HELD_OUT, TRAIN
from lm2_jax.data.shards.packing import Rows
from lm2_jax.data.shards.reading import Documents
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.types import Batch


@dataclass(frozen=True)
class Mixture:
    """The tokenized corpora of a config.

    Attributes:
      corpora: a split of each.
      tokenizer: that all were made with.
    """

    corpora: tuple[Documents, ...]
    tokenizer: Tokenizer

    def held_out(self) -> "Mixture | None":
        """The held-out splits; None unless every corpus has one, so that the mixture is kept."""
        if self.without_held_out:
            return None
        splits = self._held_out_splits()
        for split in splits:
            split.check()
        return dataclasses.replace(self, corpora=splits)

    @property
    def without_held_out(self) -> list[str]:
        """The folders of the corpora that have no held-out documents."""
        return [str(split.folder) for split in self._held_out_splits() if not len(split)]

    def _held_out_splits(self) -> tuple[Documents, ...]:
        return tuple(dataclasses.replace(c, split=HELD_OUT) for c in self.corpora)


def open_corpora(config: DataConfig, tokenizer: Tokenizer, split: str = TRAIN) -> Mixture:
    """Opens `data.corpora` and checks their shards.

    Raises:
      UserError: in one line that names the file that is missing, damaged or exchanged, or the
        corpus of another tokenizer.
    """
    return Mixture(tuple(reading.open_split(folder, split, tokenizer) for folder in config.corpora),
                   tokenizer)


def load_tokenizer(config: DataConfig, trained: tuple[str, ...]) -> Tokenizer:
    """The tokenizer of the corpora: `data.tokenizer` if that is a path, else the first corpus's.

    Args:
      trained: values of `data.tokenizer` that are no path.
    """
    own = config.tokenizer not in trained
    return tokenizers.load(config.tokenizer if own else f"{config.corpora[0]}/tokenizer.json")


@dataclass(frozen=True)
class CorpusBatches:
    """Training batches by step; a `lm2_jax.data.sources.BatchSource`, and a source for grain.

    In each stage of the curriculum row i of the stage is row i of a mixture: the corpora take turns
    by their weights, so that any number of rows has each corpus's share to within a row. An epoch
    of a corpus is a permutation of its rows, a function of seed, stage, corpus and epoch, and each
    row comes once in it. The stages have rows of different lengths, and each begins with an epoch
    of its own.

    Attributes:
      config: of the data.
      mixture: the corpora.
      segment_length: tokens.
      seed: of the run.
      batch_size: rows of the global batch where the curriculum gives none.
      num_steps: of the run.
      rows: for each size of the global batch the rows that this process needs; None = all. Only
        these are made.
    """

    config: DataConfig
    mixture: Mixture
    segment_length: int
    seed: int
    batch_size: int
    num_steps: int
    rows: Mapping[int, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return self.num_steps

    def with_curriculum(self, stages: tuple[tuple[int, ...], ...]) -> "CorpusBatches":
        """Returns the same source with the stages of its curriculum at other steps."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config,
                                                                    curriculum=stages))

    def rows_at(self, step: int) -> int:
        """Returns the number of rows of the global batch."""
        return self.config.rows_at(step, self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        size = self.rows_at(step)
        wanted = range(size) if self.rows is None else self.rows[size]
        stage = self._stage_at(step)
        begun = (step - self.config.curriculum[stage][0]) * size
        dataset = self._dataset(stage)
        made = [dataset[begun + row] for row in wanted]
        return Batch(*(np.stack([getattr(row, field.name) for row in made])
                       for field in dataclasses.fields(Batch)))

    def digest(self) -> str:
        """Returns a fingerprint of everything that the batches depend on."""
        c = self.config
        facts = ["corpus", c.curriculum, c.corpus_weights, c.loss_on_all, self.seed,
                 self.batch_size, self.segment_length, self.mixture.tokenizer.digest,
                 [[shard.sha256 for shard in d.shards] for d in self.mixture.corpora]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def rows_of(self, segments: int) -> tuple[Rows, ...]:
        """The rows of each corpus, where they have so many segments; not mixed."""
        found = self._caches.setdefault("rows", {})
        if segments not in found:
            found[segments] = tuple(
                Rows(documents, segments, self.segment_length, self.mixture.tokenizer.pad_id,
                     self.config.loss_on_all) for documents in self.mixture.corpora)
        return found[segments]

    def _stage_at(self, step: int) -> int:
        return sum(first <= step for first, *_ in self.config.curriculum) - 1

    def _dataset(self, stage: int) -> grain.MapDataset:
        """The rows of a stage, without end."""
        found = self._caches.setdefault("datasets", {})
        if stage not in found:
            corpora = self.rows_of(self.config.curriculum[stage][1])
            seeds = [int(np.random.SeedSequence([self.seed, stage, number]).generate_state(1)[0])
                     for number in range(len(corpora))]
            shuffled = [grain.MapDataset.source(rows).shuffle(seed=seed).repeat()
                        for rows, seed in zip(corpora, seeds, strict=True)]
            weights = self.config.corpus_weights or tuple(map(len, corpora))
            found[stage] = grain.MapDataset.mix(shuffled, weights)
        return found[stage]

    @functools.cached_property
    def _caches(self) -> dict[str, dict]:
        return {}

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
