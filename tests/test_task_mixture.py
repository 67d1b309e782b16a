"""Training samples of several tasks: evenly, or by weight."""

import collections
import dataclasses

import numpy as np
import pytest

import lm2_jax
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


@pytest.mark.parametrize("size", ["gpu", "cpu"])
def test_every_stage_of_the_shipped_mixture_has_every_task(size):
    """A story that does not fit is drawn again, so long ones can get rare."""
    config = lm2_jax.load_config(f"configs/babilong_qa1_5.py:{size}",
                                 {"data.background_sentences": "2000"})
    data, last = config.data, []
    whole = corpus.training(config, corpus.make_tokenizer(data, 0))
    sources = tuple(StorySource(source.task, lambda *options, source=source: (
        last.append(source.task) or source.draw(*options))) for source in whole.sources)
    maker = batches.SampleMaker(data, dataclasses.replace(whole, sources=sources),
                                config.model.segment_length)
    for segments in sorted({min(stage[1], data.sample_segments) for stage in data.curriculum}):
        counts = collections.Counter()
        for index in range(150):
            maker.draw(segments, np.random.default_rng(index))
            counts[last[-1]] += 1
        assert min(counts[task] / 150 for task in data.tasks) > 0.06, (segments, counts)
