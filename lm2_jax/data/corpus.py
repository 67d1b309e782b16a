"""All that samples are drawn from: tokenizer, stories, background; for training and held out."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.config import Config, DataConfig
from lm2_jax.data import babi, background, stories, tokenizer
from lm2_jax.data.babilong import Encoder, sentence_ids
from lm2_jax.data.background import TokenizedBackground
from lm2_jax.data.stories import StorySource
from lm2_jax.data.tokenizer import Tokenizer

STORIES_READ = 500  # simulated stories a task, whose words the tokenizer must know
HELD_OUT = 2**31  # seeds of held-out samples lie above every seed of a run


@dataclass(frozen=True)
class Corpus:
    """What samples are drawn from.

    Attributes:
      sources: of stories, one a task.
      background: tokenized prose.
      encoder: of facts and questions.
    """

    sources: tuple[StorySource, ...]
    background: TokenizedBackground
    encoder: Encoder


def training(config: Config, tokens: Tokenizer) -> Corpus:
    """Training stories and training prose."""
    return _corpus(config.data, config.data.tasks, config.data.babi, "train",
                   config.data.background, config.seed, tokens)


def held_out(config: Config, tokens: Tokenizer) -> Corpus:
    """Test stories and prose that training did not see."""
    e, d = config.eval, config.data
    return _corpus(d, e.tasks or d.tasks, e.babi or d.babi, "test",
                   e.background or d.background, HELD_OUT + e.seed, tokens)


def _corpus(config: DataConfig, tasks: Iterable[str], folder: str, split: str, prose: str,
            seed: int, tokens: Tokenizer) -> Corpus:
    if folder:
        sources = tuple(stories.from_files(task, folder, split) for task in tasks)
    else:
        sources = tuple(stories.simulated(task, seed, persons=config.persons) for task in tasks)
    documents = background.load(prose, seed=seed, num_sentences=config.background_sentences)
    tokenized = background.tokenize(documents, lambda texts: sentence_ids(tokens, texts),
                                    min_tokens=config.min_sentence_tokens)
    return Corpus(sources, tokenized, Encoder(tokens))


def load_tokenizer(config: Config, workdir: str | Path) -> Tokenizer:
    """The workdir's tokenizer; if it has none yet, the configured one is put there."""
    path = Path(workdir) / "tokenizer.json"
    if not path.exists():
        make_tokenizer(config.data, config.seed).save(path)
    return tokenizer.load(path)


def make_tokenizer(config: DataConfig, seed: int) -> Tokenizer:
    """A tokenizer.json that exists, or one trained on the training stories and prose."""
    if config.tokenizer not in ("word", "bpe"):
        return tokenizer.load(config.tokenizer)
    documents = background.load(config.background, seed=seed,
                                num_sentences=config.background_sentences)
    return tokenizer.train(itertools.chain.from_iterable(documents), kind=config.tokenizer,
                           vocab_size=config.tokenizer_vocab_size,
                           required=_story_texts(config, seed))


def _story_texts(config: DataConfig, seed: int) -> Iterable[str]:
    rng = np.random.default_rng(seed)
    for task in config.tasks:
        if config.babi:
            read = babi.parse(babi.find_file(config.babi, task, "train"))
        else:
            source = stories.simulated(task, seed)
            read = (source.draw(rng) for _ in range(STORIES_READ))
        for story in read:
            yield from story.facts
            for question in story.questions:
                yield question.text
                yield question.answer
