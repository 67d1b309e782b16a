"""Batches of BABILong training samples: those of a step are a pure function of config and step."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lm2_jax.config import DataConfig
from lm2_jax.data.babilong import deferred, mixing
from lm2_jax.data.babilong.corpus import Corpus
from lm2_jax.data.babilong.encoder import Sample
from lm2_jax.data.batches import pack
from lm2_jax.errors import UserError
from lm2_jax.types import Batch

ATTEMPTS = 1000
# In the digest these keys have fixed values: num_workers does not change the batches, and keys of
# earlier versions must not change the digest of their checkpoints.
DIGEST_KEYS = {"num_workers": 0, "num_threads": 0, "min_sentence_tokens": 4}
# Keys that earlier versions did not have, with the value that stands for what these did.
NEW_KEYS = {"max_points": 0, "max_points_per_segment": 2, "sample_segments": 0,
            "passed_states": 0.0, "deferred_fraction": 1.0, "source": "babilong", "corpora": (),
            "corpus_weights": ()}
STORIES_READ = 32  # stories of each task that the digest includes


@dataclass(frozen=True)
class SampleMaker:
    """Draws training samples.

    The task is drawn uniformly or by weight. If the story does not fit, task and story are drawn
    again, so short samples are more often of tasks with short stories.

    Attributes:
      config: options of the samples.
      corpus: the stories and the prose.
      segment_length: tokens.
    """

    config: DataConfig
    corpus: Corpus
    segment_length: int

    def draw(self, segments: int, rng: np.random.Generator) -> Sample:
        """Draws a sample of the given number of segments."""
        c, length, corpus = self.config, segments * self.segment_length, self.corpus
        deferring = c.deferred and segments > 1 and (
            c.deferred_fraction == 1 or rng.random() < c.deferred_fraction)
        bos = corpus.encoder.bos
        points = max(1, round(c.points_per_segment * segments)) if c.points_per_segment else None
        if points and c.max_points:
            points = min(points, c.max_points)
        for _ in range(ATTEMPTS):
            source = corpus.sources[self._task(rng)]
            story = source.draw(rng, points, c.questions_per_point if deferring else None,
                                segments <= c.turns_up_to)
            if deferring:
                sample = deferred.mix(deferred.points_of(story, corpus.encoder), segments,
                                      self.segment_length, corpus.prose, rng, bos,
                                      c.max_points_per_segment)
                if sample:
                    return sample
                continue
            room = length - len(bos.tokens)
            count = mixing.fitting(story, corpus.encoder, room, dense=c.dense)
            if count:
                last = count - 1 if c.dense else int(rng.integers(count))
                pieces = mixing.pieces_of(story, corpus.encoder, last, dense=c.dense)
                bare = c.bare_fraction > 0 and rng.random() < c.bare_fraction
                return mixing.mix(pieces, 0 if bare else room, corpus.prose, rng,
                                  last_at_end=not c.dense).after(bos).sample()
        raise UserError(f"no story of {', '.join(c.tasks)} in {ATTEMPTS} fits {length} tokens; "
                         "raise model.segment_length or the segments of data.curriculum")

    def _task(self, rng: np.random.Generator) -> int:
        count, weights = len(self.corpus.sources), np.array(self.config.task_weights)
        if not len(weights):
            return int(rng.integers(count))
        return int(rng.choice(count, p=weights / weights.sum()))


@dataclass(frozen=True)
class BabilongBatches:
    """Training batches by step; a `lm2_jax.data.sources.BatchSource`, and a source for grain.

    Attributes:
      maker: draws the samples.
      seed: of the run.
      batch_size: rows of the global batch where the curriculum gives none.
      num_steps: of the run.
      rows: for each size of the global batch the rows that this process needs; None = all. Only
        these are made.
    """

    maker: SampleMaker
    seed: int
    batch_size: int
    num_steps: int
    rows: Mapping[int, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return self.num_steps

    def with_curriculum(self, stages: tuple[tuple[int, ...], ...]) -> "BabilongBatches":
        """Returns the same source with the stages of its curriculum at other steps."""
        config = dataclasses.replace(self.maker.config, curriculum=stages)
        return dataclasses.replace(self, maker=dataclasses.replace(self.maker, config=config))

    def rows_at(self, step: int) -> int:
        """Returns the number of rows of the global batch."""
        return self.maker.config.rows_at(step, self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        size = self.rows_at(step)
        rows = range(size) if self.rows is None else self.rows[size]
        made = [self.row(step, row) for row in rows]
        return Batch(*(np.stack([getattr(row, field.name) for row in made])
                       for field in dataclasses.fields(Batch)))

    def digest(self) -> str:
        """Returns a fingerprint of everything that the batches depend on."""
        corpus, config = self.maker.corpus, dataclasses.asdict(self.maker.config)
        rng = np.random.default_rng(0)
        stories = [repr(s.draw(rng, None)) for s in corpus.sources for _ in range(STORIES_READ)]
        config = {key: value for key, value in config.items() if NEW_KEYS.get(key) != value}
        facts = [config | DIGEST_KEYS, self.seed, self.batch_size,
                 self.maker.segment_length, corpus.encoder.tokenizer.digest, stories]
        if self.maker.config.vary_length:
            facts.append("rows cut once")  # earlier versions drew the lengths otherwise
        hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        hashed.update("".join(source.content for source in corpus.sources).encode())
        hashed.update(corpus.prose.tokens.data)
        hashed.update(corpus.prose.starts.data)
        return hashed.hexdigest()[:16]

    def row(self, step: int, row: int) -> Batch:
        """Makes one row of n segments: one sample, or two parts if lengths vary.

        The border between the parts is drawn uniformly from the n + 1 segment borders; the first
        and the last leave the row whole. A row then has 2 / (n + 1) samples of each length from 1
        to n in expectation, so every length is equally frequent and no segment is wasted. A bare
        sample may be shorter than its part; the rest of the part is filled with another sample, so
        samples of n segments are rarer by `bare_fraction`. With `sample_segments`, a longer row
        has a border every so many segments instead.
        """
        rng = np.random.default_rng([self.seed, step, row])
        config, T = self.maker.config, self.maker.segment_length
        S = config.segments_at(step)
        borders = list(range(0, S, config.sample_segments or S)) + [S]
        if config.vary_length:
            borders.insert(1, int(rng.integers(S + 1)))
        samples, starts = [], []
        for start, stop in itertools.pairwise(borders):
            while start < stop:
                samples.append(self.maker.draw(stop - start, rng))
                starts.append(start)
                start += -(-len(samples[-1].tokens) // T)
        packed = pack(samples, starts, S, T, self.maker.corpus.encoder.tokenizer.pad_id,
                      config.loss_on_all)
        if config.passed_states:
            packed.reset_BS[1:] &= rng.random(S - 1) >= config.passed_states
        return packed
