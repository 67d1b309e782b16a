"""Training batches: the batch of step n is a pure function of the config and n."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from lm2_jax.config import DataConfig
from lm2_jax.data import workers
from lm2_jax.data.babilong import deferred, mixing
from lm2_jax.data.babilong.corpus import Corpus
from lm2_jax.data.babilong.mixing import Sample
from lm2_jax.errors import UserError
from lm2_jax.types import Batch

ATTEMPTS = 1000
# In the digest these keys have fixed values: num_workers does not change the batches, and keys of
# earlier versions must not change the digest of their checkpoints.
DIGEST_KEYS = {"num_workers": 0, "num_threads": 0, "min_sentence_tokens": 4}
STORIES_READ = 32  # stories a task, that the fingerprint of the data includes


@dataclass(frozen=True)
class SampleMaker:
    """Draws training samples.

    Attributes:
      config: what they are made of.
      corpus: what they are drawn from; the task is drawn evenly or by weight, again if the story is
        too long, so that a short sample is more often of a task with short stories.
      segment_length: tokens.
    """

    config: DataConfig
    corpus: Corpus
    segment_length: int

    def draw(self, segments: int, rng: np.random.Generator) -> Sample:
        """A sample that fills so many segments."""
        c, length = self.config, segments * self.segment_length
        corpus, deferring = self.corpus, c.deferred and segments > 1
        bos = corpus.encoder.bos
        points = max(1, round(c.points_per_segment * segments)) if c.points_per_segment else None
        for _ in range(ATTEMPTS):
            source = corpus.sources[self._task(rng)]
            story = source.draw(rng, points, c.questions_per_point if deferring else None,
                                segments <= c.turns_up_to)
            if deferring:
                sample = deferred.mix(deferred.points_of(story, corpus.encoder), segments,
                                      self.segment_length, corpus.background, rng, bos)
                if sample:
                    return sample
                continue
            room = length - len(bos.tokens)
            count = mixing.fitting(story, corpus.encoder, room, dense=c.dense)
            if count:
                last = count - 1 if c.dense else int(rng.integers(count))
                pieces = mixing.pieces_of(story, corpus.encoder, last, dense=c.dense)
                bare = c.bare_fraction > 0 and rng.random() < c.bare_fraction
                return mixing.mix(pieces, 0 if bare else room, corpus.background, rng,
                                  last_at_end=not c.dense).after(bos).sample()
        raise UserError(f"no story of {', '.join(c.tasks)} in {ATTEMPTS} fits {length} tokens; "
                         "raise model.segment_length or the segments of data.curriculum")

    def _task(self, rng: np.random.Generator) -> int:
        count, weights = len(self.corpus.sources), np.array(self.config.task_weights)
        if not len(weights):
            return int(rng.integers(count))
        return int(rng.choice(count, p=weights / weights.sum()))


@dataclass(frozen=True)
class BatchSource:
    """Batches by step, as a grain source; only the rows asked for are made.

    Attributes:
      maker: of the samples.
      seed: of the run.
      batch_size: rows of the global batch, where the curriculum names none.
      num_steps: of the run.
      rows: for each size of the global batch the rows that this process needs; None = all.
    """

    maker: SampleMaker
    seed: int
    batch_size: int
    num_steps: int
    rows: Mapping[int, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return self.num_steps

    def with_curriculum(self, stages: tuple[tuple[int, ...], ...]) -> "BatchSource":
        """The same source with its stages at other steps."""
        config = dataclasses.replace(self.maker.config, curriculum=stages)
        return dataclasses.replace(self, maker=dataclasses.replace(self.maker, config=config))

    def rows_at(self, step: int) -> int:
        """Rows of the global batch."""
        return self.maker.config.rows_at(step, self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        size = self.rows_at(step)
        rows = range(size) if self.rows is None else self.rows[size]
        made = [self.row(step, row) for row in rows]
        return Batch(*(np.stack([getattr(row, field.name) for row in made])
                       for field in dataclasses.fields(Batch)))

    def digest(self) -> str:
        """A fingerprint of everything that the batches depend on."""
        return digest(self)

    def row(self, step: int, row: int) -> Batch:
        """One row of n segments: one sample that fills it, or two parts where lengths vary.

        The border is drawn evenly from the n + 1 there are, the outer ones leaving the row whole.
        A row has then 2 / (n + 1) samples of each length from 1 to n, so that of all samples as
        many are of one length as of another, and no segment is wasted. What a bare sample leaves
        of its part is a sample too: samples of n segments are then rarer by `bare_fraction`.
        """
        rng = np.random.default_rng([self.seed, step, row])
        config, T = self.maker.config, self.maker.segment_length
        S = config.segments_at(step)
        border = int(rng.integers(S + 1)) if config.vary_length else S
        samples, starts = [], []
        for start, stop in ((0, border), (border, S)):
            while start < stop:
                samples.append(self.maker.draw(stop - start, rng))
                starts.append(start)
                start += -(-len(samples[-1].tokens) // T)
        return pack(samples, starts, S, T, self.maker.corpus.encoder.tokenizer.pad_id,
                    config.loss_on_all)


def pack(samples: Sequence[Sample], starts: Sequence[int], num_segments: int,
         segment_length: int, pad_id: int, loss_on_all: float) -> Batch:
    """Samples as one row, each from the segment that `starts` gives; the rest is padding."""
    L = num_segments * segment_length
    row = Batch(tokens_BL=np.full(L, pad_id, np.int32), targets_BL=np.full(L, pad_id, np.int32),
                loss_weight_BL=np.zeros(L, np.float32), answer_BL=np.zeros(L, bool),
                valid_BL=np.zeros(L, bool), reset_BS=np.zeros(num_segments, bool))
    for sample, start in zip(samples, starts, strict=True):
        first, n = start * segment_length, len(sample.tokens)
        row.tokens_BL[first:first + n] = sample.tokens
        row.valid_BL[first:first + n] = True
        row.reset_BS[start] = True
        row.targets_BL[first:first + n - 1] = sample.tokens[1:]
        row.answer_BL[first:first + n - 1] = sample.answer[1:]
        row.loss_weight_BL[first:first + n - 1] = np.where(sample.answer[1:], 1.0, loss_on_all)
    return row


def iterate(source: BatchSource, first_step: int, *, num_workers: int = 0) -> Iterator[Batch]:
    """Yields the batches of the steps after `first_step`, made ahead of time.

    The position is the step alone, so the number of workers changes no batch.

    Args:
      first_step: number of steps already done.
      num_workers: worker processes that make batches; 0 = none.

    Raises:
      UserError: if a worker process dies; the message gives the likely cause.
    """
    def dataset(source) -> grain.IterDataset:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        return grain.MapDataset.source(source)[first_step:].to_iter_dataset(options)

    if num_workers:
        return workers.iterate(source, dataset, num_workers)
    return iter(dataset(source))


def digest(source: BatchSource) -> str:
    """A fingerprint of all that the batches depend on."""
    corpus, config = source.maker.corpus, dataclasses.asdict(source.maker.config)
    rng = np.random.default_rng(0)
    stories = [repr(s.draw(rng, None)) for s in corpus.sources for _ in range(STORIES_READ)]
    facts = [config | DIGEST_KEYS, source.seed, source.batch_size,
             source.maker.segment_length, corpus.encoder.tokenizer.digest, stories]
    if source.maker.config.vary_length:
        facts.append("rows cut once")  # earlier versions drew the lengths otherwise
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    hashed.update("".join(source.content for source in corpus.sources).encode())
    hashed.update(corpus.background.tokens)
    hashed.update(corpus.background.starts)
    return hashed.hexdigest()[:16]
