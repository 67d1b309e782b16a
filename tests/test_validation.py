"""Stories that training keeps back for what it decides by them."""

import itertools

import numpy as np
import pytest

from lm2_jax.data.babi import story_sources


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


def test_simulated_ones_have_another_seed():
    told = []
    for seed in (0, 2**31 - 1):
        source, rng = story_sources.simulated("qa1", seed), np.random.default_rng(0)
        told.append({source.draw(rng).facts for _ in range(200)})
    assert all(not a & b for a, b in itertools.combinations(told, 2))
