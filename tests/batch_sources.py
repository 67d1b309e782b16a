"""Sources of small training batches, and whether two batches are equal."""

import dataclasses
import functools

import numpy as np

from lm2_jax.config import Config, DataConfig
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.batches import BabilongBatches, SampleMaker

SIMULATED = (*(f"qa{number}" for number in range(1, 11)), "kv")
T = 48


def config_of(**changes):
    return DataConfig(**{"tasks": ("qa1",), "background_sentences": 400,
                         "tokenizer_vocab_size": 512, "points_per_segment": 1.0,
                         "questions_per_point": 2, "curriculum": ((0, 4),)} | changes)


@functools.cache
def tokenizer_of(babi="", background="generated", tasks=SIMULATED):
    return corpus.make_tokenizer(config_of(tasks=tasks, babi=babi, background=background), 0)


@functools.cache
def corpus_of(config, seed=0):
    same = {"babi": config.babi, "background": config.background}
    tasks = config.tasks if config.babi else SIMULATED
    return corpus.training(Config(seed=seed, data=config), tokenizer_of(tasks=tasks, **same))


def source_of(seed=0, rows=None, batch_size=6, **changes):
    config = config_of(**changes)
    return BabilongBatches(SampleMaker(config, corpus_of(config), T), seed, batch_size, 40, rows)


def equal(a, b):
    fields = [field.name for field in dataclasses.fields(a)]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)
