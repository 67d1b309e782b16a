"""Stories in which persons act in turns, for training only."""

import dataclasses
import itertools

import numpy as np
import pytest

from lm2_jax.config import Config, DataConfig
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babi.simulator.tasks import simulate
from lm2_jax.data.babilong import batches, corpus


def actors(story):
    return [fact.split()[0] for fact in story.facts]


@pytest.mark.parametrize("task,persons", [("qa1", 4), ("qa1", 2), ("qa2", 4), ("qa9", 3)])
def test_nobody_acts_again_before_all_others_have(task, persons):
    for index in range(50):
        acted = actors(simulate(task, 0, index, points=6, persons=persons, turns=True))
        for first in range(0, len(acted), persons):
            turn = acted[first:first + persons]
            assert len(set(turn)) == len(turn)


def test_turns_has_no_effect_unless_set_or_without_persons():
    for task, index in itertools.product(("qa1", "qa4", "qa8"), range(20)):
        plain = simulate(task, 0, index, points=6)
        assert simulate(task, 0, index, points=6, turns=False) == plain
        assert (simulate(task, 0, index, points=6, turns=True) == plain) == (task == "qa4")


@pytest.mark.parametrize("up_to", [0, 1, 2, 3])
def test_training_samples_of_few_segments_have_persons_act_in_turns(up_to):
    config = Config(data=DataConfig(turns_up_to=up_to, background_sentences=50, deferred=True))
    drawn_from = corpus.training(config, corpus.make_tokenizer(config.data, 0))
    asked = []
    draw = drawn_from.sources[0].draw
    source = story_sources.StorySource("qa1", lambda rng, *options: (
        asked.append(options[2]) or draw(rng, *options)))
    drawn_from = dataclasses.replace(drawn_from, sources=(source,))
    maker = batches.SampleMaker(config.data, drawn_from, 40)
    for segments in (1, 2, 3, 4):
        asked.clear()
        maker.draw(segments, np.random.default_rng(0))
        assert set(asked) == {segments <= up_to}


def test_a_story_source_passes_turns_on():
    source, rng = story_sources.simulated("qa1", 0), np.random.default_rng(0)
    for turns, wanted in ((True, 1.0), (False, 24 / 4**4)):
        all_four = [len(set(actors(source.draw(rng, 2, None, turns)))) == 4 for _ in range(500)]
        assert np.mean(all_four) == pytest.approx(wanted, abs=0.05)
