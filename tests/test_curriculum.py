"""The stages of a run against their definition (a real run is in test_resume.py)."""

import json

import pytest

from lm2_jax.train.curriculum import Curriculum

STAGES = ((0, 1), (20, 2, 8), (50, 4))


def follow(curriculum, accuracies, first=0):
    """The steps after which a stage ended."""
    ended = []
    for step, accuracy in enumerate(accuracies, first + 1):
        curriculum.record(step, accuracy)
        if curriculum.ends_at(step):
            ended.append(step)
    return ended


def test_without_a_bound_the_stages_keep_their_steps():
    curriculum = Curriculum(STAGES, 0.0, 5)
    assert follow(curriculum, [1.0] * 100) == [] and curriculum.stages == STAGES
    assert [curriculum.segments_at(step) for step in (0, 19, 20, 49, 50, 99)] == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("accuracies,ended,stages", [
    ([0.9] * 100, [5, 10], ((0, 1), (5, 2, 8), (10, 4))),
    ([0.5] * 100, [], STAGES),
    # The mean over five steps counts, looked at every fifth: not at 8, where it first holds.
    ([0.0] * 3 + [1.0] * 7 + [0.0] * 90, [10], ((0, 1), (10, 2, 8), (40, 4))),
    # The stage of two segments begins at 20; the accuracy of the one before does not count.
    ([0.5] * 15 + [0.9, 0.9, 0.9, 0.9, 0.5] + [0.0] * 4 + [1.0] * 6, [30],
     ((0, 1), (20, 2, 8), (30, 4))),
    # A stage that is right as its steps are over takes nothing from the next one.
    ([0.5] * 15 + [1.0] * 5 + [0.5] * 80, [], STAGES),
    # The last stage never ends.
    ([0.0] * 50 + [1.0] * 50, [], STAGES),
])
def test_a_stage_ends_once_its_accuracy_reaches_the_bound(accuracies, ended, stages):
    curriculum = Curriculum(STAGES, 0.9 - 1e-9, 5)
    assert follow(curriculum, accuracies) == ended and curriculum.stages == stages


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_restored_position_goes_on_alike(cut):
    accuracies = [0.0] * 7 + [1.0] * 93
    whole, before, after = (Curriculum(STAGES, 0.8, 5) for _ in range(3))
    wanted = follow(whole, accuracies)
    ended = follow(before, accuracies[:cut])
    after.restore(json.loads(json.dumps(before.to_dict())))
    assert ended + follow(after, accuracies[cut:], cut) == wanted
    assert after.stages == whole.stages != STAGES
