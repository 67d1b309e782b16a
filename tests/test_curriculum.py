"""The stages of a run against their definition (a real run is in test_resume.py)."""

import json

import pytest

from lm2_jax.training.curriculum import Curriculum

STAGES = ((0, 1), (20, 2, 8), (50, 4))
EVERY = 5


def follow(curriculum, accuracies, first=0):
    """The steps after which a stage ended; `accuracies` are those of looks, every fifth step."""
    ended = []
    for look, accuracy in enumerate(accuracies, first + 1):
        step = look * EVERY
        if curriculum.can_end_after(step) and curriculum.update(step, accuracy):
            ended.append(step)
    return ended


def test_without_a_bound_the_stages_keep_their_steps():
    curriculum = Curriculum(STAGES, 0.0)
    assert follow(curriculum, [1.0] * 20) == [] and curriculum.stages == STAGES
    assert [curriculum.stage_at(step) for step in (0, 19, 20, 49, 50, 99)] == [
        STAGES[0], STAGES[0], STAGES[1], STAGES[1], STAGES[2], STAGES[2]]


@pytest.mark.parametrize("accuracies,ended,stages", [
    ([0.9] * 20, [5, 10], ((0, 1), (5, 2, 8), (10, 4))),
    ([0.5] * 20, [], STAGES),
    ([0.0, 0.95] + [0.0] * 18, [10], ((0, 1), (10, 2, 8), (40, 4))),
    # At a stage's own end and in the last stage nothing is looked at.
    ([0.5] * 3 + [1.0] + [0.5] * 5 + [1.0] * 11, [], STAGES),
])
def test_a_stage_ends_at_the_bound(accuracies, ended, stages):
    curriculum = Curriculum(STAGES, 0.9)
    assert follow(curriculum, accuracies) == ended and curriculum.stages == stages


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_restored_position_goes_on_alike(cut):
    accuracies = [0.5, 0.6, 0.5, 0.2, 0.8, 0.2, 0.1, 0.9, 0.9] + [0.3] * 11
    whole, before, after = (Curriculum(((0, 1), (40, 2, 8), (90, 4)), 0.8) for _ in range(3))
    wanted = follow(whole, accuracies)
    ended = follow(before, accuracies[:cut])
    after.restore(json.loads(json.dumps(before.to_dict())))
    assert ended + follow(after, accuracies[cut:], cut) == wanted == [25, 40]
    assert after.stages == whole.stages != STAGES
