"""What samples are drawn from: tokenizer, stories and background prose, by split."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.config import Config, DataConfig, EvalConfig
from lm2_jax.data import tokenizer
from lm2_jax.data.babi import files as babi
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babi.story import Story
from lm2_jax.data.babi.story_sources import StorySource
from lm2_jax.data.babilong.encoder import Encoder, sentence_ids
from lm2_jax.data.shards import batches as shards
from lm2_jax.data.text import background
from lm2_jax.data.text.background import TokenizedBackground
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

STORIES_READ = 500  # simulated stories a task, whose words the tokenizer must know
MIN_SENTENCE_TOKENS = 4  # shorter sentences of the background are left out
TRAINED = ("word", "bpe")  # tokenizers that are trained on the data
VOCAB_MULTIPLE = 128  # the vocabulary of other tokenizers is padded to, as matrix units like it
HELD_OUT = 2**31  # added to eval.seed: seeds of held-out samples are above every seed of a run
VALIDATION = -1  # seed of validation stories, which neither `seed` nor `eval.seed` can give


@dataclass(frozen=True)
class Corpus:
    """What samples are drawn from.

    Attributes:
      sources: of stories, one a task.
      background: tokenized prose; None if nothing is drawn.
      encoder: of facts and questions.
    """

    sources: tuple[StorySource, ...]
    background: TokenizedBackground | None
    encoder: Encoder

    @property
    def prose(self) -> TokenizedBackground:
        """The background of a corpus that samples are drawn from."""
        if self.background is None:
            raise ValueError("no samples are drawn from this corpus")
        return self.background


def training(config: Config, tokens: Tokenizer) -> Corpus:
    """Training stories and training prose."""
    d = config.data
    sources = _sources(d, d.tasks, d.babi, "train", config.seed)
    return _corpus(d, sources, d.background, config.seed, tokens)


def validation(config: Config, training: Corpus) -> Corpus:
    """Validation stories in training prose, for decisions of the curriculum.

    No run trains on them: of a file's train split they are those that are kept back, simulated
    ones have a seed of their own.
    """
    sources = _sources(config.data, config.data.tasks, config.data.babi, "validation", VALIDATION)
    return dataclasses.replace(training, sources=sources)


def held_out(config: Config, tokens: Tokenizer) -> Corpus:
    """Test stories and prose of a seed that no training has; no stories with `eval.samples`."""
    e, d = config.eval, config.data
    if e.samples:
        return Corpus((), None, Encoder(tokens))
    tasks, folder, seed = e.tasks or d.tasks, e.babi or d.babi, HELD_OUT + e.seed
    if e.indices:
        sources = _asked_in_turn(e, tasks, folder)
    else:
        sources = _sources(d, tasks, folder, "test", seed)
    return _corpus(d, sources, e.background or d.background, seed, tokens)


def _asked_in_turn(config: EvalConfig, tasks: Iterable[str], folder: str
                   ) -> tuple[StorySource, ...]:
    if not folder:
        raise UserError("eval.indices are places in bAbI files: set eval.babi to their folder")
    sources = tuple(story_sources.from_indices(task, folder, "test", config.indices)
                    for task in tasks)
    wanted = max(config.num_samples, config.during_training)
    for source in sources:
        if 0 < len(source.selected) < wanted:
            raise UserError(f"{wanted} samples a task are asked for, but {config.indices} has "
                             f"{len(source.selected)} indices of {source.task}; set "
                             f"eval.num_samples to {len(source.selected)} at most (lm2 gates: "
                             "--samples)")
    return sources


def _sources(config: DataConfig, tasks: Iterable[str], folder: str, split: str, seed: int
             ) -> tuple[StorySource, ...]:
    if folder:
        return tuple(story_sources.from_files(task, folder, split) for task in tasks)
    return tuple(story_sources.simulated(task, seed, persons=config.persons) for task in tasks)


def _corpus(config: DataConfig, sources: tuple[StorySource, ...], prose: str, seed: int,
            tokens: Tokenizer) -> Corpus:
    documents = background.load(prose, seed=seed, num_sentences=config.background_sentences)
    tokenized = background.tokenize(documents, lambda texts: sentence_ids(tokens, texts),
                                    min_tokens=MIN_SENTENCE_TOKENS)
    return Corpus(sources, tokenized, Encoder(tokens))


def vocab_multiple(config: DataConfig) -> int:
    """Returns what `model.vocab_size` is rounded up to a multiple of."""
    trained = config.source == "babilong" and config.tokenizer in TRAINED
    return 1 if trained else VOCAB_MULTIPLE


def load_tokenizer(config: Config, workdir: str | Path) -> Tokenizer:
    """Loads the workdir's tokenizer; makes the configured one there if there is none."""
    path = paths.of(workdir) / "tokenizer.json"
    if not path.exists():
        make_tokenizer(config.data, config.seed).save(path)
    return tokenizer.load(path)


def make_tokenizer(config: DataConfig, seed: int) -> Tokenizer:
    """Loads the configured tokenizer.json, or trains a tokenizer on training stories and prose.

    Tokenized corpora have their tokenizer beside them.

    Raises:
      ValueError: the tokenizer does not know the answers of the stories.
    """
    if config.source == "corpus":
        return shards.load_tokenizer(config, TRAINED)
    if config.tokenizer not in TRAINED:
        tokens = tokenizer.load(config.tokenizer)
        encoder = Encoder(tokens)
        for answer in sorted({question.answer for story in _stories(config, seed)
                              for question in story.questions}):
            encoder.answer(answer)
        return tokens
    documents = background.load(config.background, seed=seed,
                                num_sentences=config.background_sentences)
    return tokenizer.train(itertools.chain.from_iterable(documents), kind=config.tokenizer,
                           vocab_size=config.tokenizer_vocab_size,
                           required=_story_texts(config, seed))


def _stories(config: DataConfig, seed: int) -> Iterator[Story]:
    rng = np.random.default_rng(seed)
    for task in config.tasks:
        if config.babi:
            yield from babi.parse(babi.find_file(config.babi, task, "train"))
        else:
            source = story_sources.simulated(task, seed)
            yield from (source.draw(rng) for _ in range(STORIES_READ))


def _story_texts(config: DataConfig, seed: int) -> Iterator[str]:
    for story in _stories(config, seed):
        yield from story.facts
        for question in story.questions:
            yield question.text
            yield question.answer
