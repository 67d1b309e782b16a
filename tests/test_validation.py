"""Stories that training keeps back for what it decides by them."""

import itertools
from functools import cache

import numpy as np
import pytest

from lm2_jax.config import Config, DataConfig, EvalConfig
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError


def write(folder, count):
    lines = []
    for number in range(count):
        lines += [f"1 Mary moved to place{number}.", f"2 Where is Mary? \tplace{number}\t1"]
    (folder / "qa1_single_train.txt").write_text("\n".join(lines) + "\n")


def drawn(folder, split):
    source, rng = story_sources.from_files("qa1", str(folder), split), np.random.default_rng(0)
    return {source.draw(rng, None, None, False).facts for _ in range(2000)}


@pytest.mark.parametrize("count,kept", [(100, 5), (21, 2), (20, 1)])
def test_no_story_is_for_both(tmp_path, count, kept):
    write(tmp_path, count)
    training, validation = (drawn(tmp_path, split) for split in ("train", "validation"))
    assert not training & validation
    assert (len(training), len(validation)) == (count - kept, kept)


def test_of_few_stories_none_is_kept_back(tmp_path):
    write(tmp_path, 19)
    assert drawn(tmp_path, "train") == drawn(tmp_path, "validation")


@pytest.fixture
def seeds(monkeypatch):
    """The seeds of all simulated stories that are made."""
    found, simulated = [], story_sources.simulated

    def recorded(task, seed, **options):
        found.append(seed)
        return simulated(task, seed, **options)

    monkeypatch.setattr(story_sources, "simulated", recorded)
    return found


@cache
def tokens():
    return corpus.make_tokenizer(DataConfig(background_sentences=50), 0)


def drawn_from(seed, eval_seed=0):
    """Training, validation and held-out stories of a run: 200 of each."""
    config = Config(seed=seed, data=DataConfig(background_sentences=50),
                    eval=EvalConfig(seed=eval_seed))
    training = corpus.training(config, tokens())
    told = []
    for each in (training, corpus.validation(config, training), corpus.held_out(config, tokens())):
        rng = np.random.default_rng(0)  # the same draws: only the stories' seed tells them apart
        told.append({each.sources[0].draw(rng).facts for _ in range(200)})
    return told


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
@pytest.mark.parametrize("eval_seed", [0, 1, 2**31 - 1])
def test_simulated_stories_are_for_one_of_training_validation_and_evaluation(seed, eval_seed):
    told = drawn_from(seed, eval_seed)
    assert all(not a & b for a, b in itertools.combinations(told, 2))


def test_no_legal_seed_gives_validation_stories(seeds):
    drawn_from(5, 6)
    training, validation, evaluation = seeds
    assert (training, evaluation) == (5, corpus.HELD_OUT + 6)
    with pytest.raises(UserError, match="^seed is"):
        Config(seed=validation)
    with pytest.raises(UserError, match="^eval.seed is"):
        EvalConfig(seed=validation - corpus.HELD_OUT)
    # Nor does any legal seed of an evaluation give stories of a run.
    for seed in (-corpus.HELD_OUT, -1, 2**31):
        with pytest.raises(UserError, match="^eval.seed is"):
            EvalConfig(seed=seed)
