"""Training samples of several tasks: evenly, or by weight."""

import collections
import dataclasses

import numpy as np
import pytest

from lm2_jax.config import Config, DataConfig
from lm2_jax.data.babi.story_sources import StorySource
from lm2_jax.data.babilong import batches, corpus

TASKS = ("qa1", "qa6", "qa9")


def drawn(weights, count=1500):
    """How often each task was asked for a story."""
    data = DataConfig(tasks=TASKS, task_weights=weights, background_sentences=50)
    config, asked = Config(data=data), collections.Counter()
    whole = corpus.training(config, corpus.make_tokenizer(data, 0))

    def counting(source):
        return StorySource(source.task, lambda *options: (
            asked.update([source.task]) or source.draw(*options)))

    sources = tuple(map(counting, whole.sources))
    maker = batches.SampleMaker(data, dataclasses.replace(whole, sources=sources), 200)
    for index in range(count):
        maker.draw(1, np.random.default_rng(index))
    return [asked[task] / asked.total() for task in TASKS]


@pytest.mark.parametrize("weights,shares", [
    ((), (1 / 3, 1 / 3, 1 / 3)), ((2.0, 1.0, 1.0), (0.5, 0.25, 0.25)),
    ((0.08, 0.01, 0.01), (0.8, 0.1, 0.1)),
])
def test_tasks_come_as_often_as_their_weights_say(weights, shares):
    assert drawn(weights) == pytest.approx(shares, abs=0.04)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0, 1.0)])
def test_weights_that_fit_no_tasks_are_refused(weights):
    with pytest.raises(ValueError, match="data.task_weights is .* each of data.tasks"):
        DataConfig(tasks=TASKS, task_weights=weights)
