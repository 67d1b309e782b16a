"""Stories in which persons act in turns: a training aid, never in evaluation."""

import itertools

import numpy as np
import pytest

from lm2_jax.config import Config, DataConfig, EvalConfig
from lm2_jax.data import corpus, stories
from lm2_jax.data.simulator import simulate


def actors(story):
    return [fact.split()[0] for fact in story.facts]


@pytest.mark.parametrize("task,persons", [("qa1", 4), ("qa1", 2), ("qa2", 4), ("qa9", 3)])
def test_nobody_acts_again_before_all_others_have(task, persons):
    for index in range(50):
        told = actors(simulate(task, 0, index, points=6, persons=persons, turns=True))
        for first in range(0, len(told), persons):
            once = told[first:first + persons]
            assert len(set(once)) == len(once)


def test_stories_without_turns_or_persons_are_what_they_were():
    for task, index in itertools.product(("qa1", "qa4", "qa8"), range(20)):
        plain = simulate(task, 0, index, points=6)
        assert simulate(task, 0, index, points=6, turns=False) == plain
        assert (simulate(task, 0, index, points=6, turns=True) == plain) == (task == "qa4")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_stories_told_in_turns(share):
    source, rng = stories.simulated("qa1", 0, turns=share), np.random.default_rng(0)
    in_turns = [len(set(actors(source.draw(rng, 2)))) == 4 for _ in range(1000)]
    by_chance = 24 / 4**4
    assert np.mean(in_turns) == pytest.approx(share + (1 - share) * by_chance, abs=0.05)


def test_held_out_stories_are_never_told_in_turns():
    config = Config(data=DataConfig(turns=1.0, background_sentences=50), eval=EvalConfig())
    tokens = corpus.make_tokenizer(config.data, 0)
    for made, wanted in ((corpus.training, 1.0), (corpus.held_out, 24 / 4**4)):
        source, rng = made(config, tokens).sources[0], np.random.default_rng(0)
        told = [len(set(actors(source.draw(rng, 2)))) == 4 for _ in range(300)]
        assert np.mean(told) == pytest.approx(wanted, abs=0.06)
