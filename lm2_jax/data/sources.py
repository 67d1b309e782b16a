"""Training data by step: what every source of batches offers, and how one is made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lm2_jax.config import Config, DataConfig, with_vocab_size
from lm2_jax.data.babilong import corpus as corpora
from lm2_jax.data.babilong.batches import BabilongBatches, SampleMaker
from lm2_jax.data.babilong.corpus import Corpus
from lm2_jax.data.shards import batches as shards
from lm2_jax.data.shards.batches import CorpusBatches, Mixture
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.types import Batch


class BatchSource(Protocol):
    """Batches as a pure function of the step, so that the step is the whole data position."""

    def __len__(self) -> int:
        """Steps of the run."""

    def __getitem__(self, step: int) -> Batch:
        """The rows of the global batch of a step that this process needs, as NumPy arrays."""

    def rows_at(self, step: int) -> int:
        """Rows of the global batch of a step."""

    def with_curriculum(self, stages: tuple[tuple[int, ...], ...]) -> "BatchSource":
        """The same source with the stages of its curriculum at other steps."""

    def digest(self) -> str:
        """A fingerprint of everything that the batches depend on."""


def open_training(config: Config, tokenizer: Tokenizer) -> Corpus | Mixture:
    """What training batches are drawn from: stories and prose, or tokenized corpora.

    Raises:
      UserError: it cannot be read.
    """
    if config.data.source == "corpus":
        return shards.open_corpora(config.data, tokenizer)
    return corpora.training(config, tokenizer)


def open_held_out(config: Config, training: Corpus | Mixture) -> Corpus | Mixture | None:
    """What held-out batches are drawn from during training; None if nothing is held out."""
    if isinstance(training, Mixture):
        return training.held_out()
    return corpora.validation(config, training)


def make_source(data: DataConfig, corpus: Corpus | Mixture, *, segment_length: int, seed: int,
                batch_size: int, num_steps: int,
                rows: Mapping[int, tuple[int, ...]] | None = None) -> BatchSource:
    """The source that a config names.

    Args:
      corpus: what the samples are drawn from (`open_training`).
      segment_length: tokens.
      batch_size: rows of the global batch where the curriculum gives none.
      rows: for each size of the global batch the rows that this process needs; None = all.
    """
    if isinstance(corpus, Mixture):
        return CorpusBatches(data, corpus, segment_length, seed, batch_size, num_steps, rows)
    maker = SampleMaker(data, corpus, segment_length)
    return BabilongBatches(maker, seed, batch_size, num_steps, rows)


@dataclass(frozen=True)
class Batches:
    """The training batches of a config.

    Attributes:
      config: with `model.vocab_size` of the tokenizer.
      tokenizer: of the tokens.
      source: of the batches.
    """

    config: Config
    tokenizer: Tokenizer
    source: BatchSource

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, step: int) -> Batch:
        return self.source[step]

    def __iter__(self) -> Iterator[Batch]:
        return map(self.source.__getitem__, range(len(self.source)))


def batches(config: Config) -> Batches:
    """The training batches of a config, without a workdir.

    The batch of a step is a pure function of (config, step). Its arrays are NumPy arrays of all
    rows.

    Example:

        data = lm2.batches(lm2.load_config("tiny"))
        batch = data[0]                                  # batch.tokens_BL, batch.targets_BL, ...
        print(data.tokenizer.decode(batch.tokens_BL[0]))
    """
    tokenizer = corpora.make_tokenizer(config.data, config.seed)
    config = with_vocab_size(config, tokenizer.vocab_size,
                             corpora.vocab_multiple(config.data))
    source = make_source(config.data, open_training(config, tokenizer), seed=config.seed,
                         segment_length=config.model.segment_length,
                         batch_size=config.train.batch_size, num_steps=config.train.num_steps)
    return Batches(config, tokenizer, source)
