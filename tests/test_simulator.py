"""The arguments of the simulator: reproducibility, and the numbers of facts and questions."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
from templates import NAMES

from lm2_jax.data.babi.simulator.tasks import TASKS, simulate


@pytest.mark.parametrize("task", TASKS)
def test_a_story_depends_only_on_its_arguments(task):
    first = simulate(task, 3, 7)
    others = [simulate(other, 3, index) for other in TASKS for index in range(3)]
    assert simulate(task, 3, 7) == first
    assert simulate(task, np.int64(3), np.int32(7)) == first
    assert first not in others
    assert first not in (simulate(task, 3, 8), simulate(task, 4, 7), simulate(task, 7, 3))
    assert len({simulate(task, 0, index) for index in range(200)}) >= 180  # short stories repeat


@pytest.mark.slow
def test_stories_stay_the_same():
    options = ({}, {"points": 3, "per_point": 4}, {"persons": 2}, {"points": 4, "turns": True})
    digests = []
    for tasks in (TASKS[:10], TASKS[10:]):
        stories = [simulate(t, 3, i, **o) for t in tasks for i in range(200) for o in options]
        digests.append(hashlib.sha256(repr(stories).encode()).hexdigest()[:16])
    assert digests == ["2261cb64d28197bb", "92a8a515508c3738"]


def check_form(story):
    assert all(fact.endswith(".") for fact in story.facts)
    counts = [question.num_facts for question in story.questions]
    assert counts == sorted(counts) and counts[-1] == len(story.facts)
    for q in story.questions:
        assert q.text.endswith("?") and q.answer
        assert q.support and all(0 <= i < q.num_facts for i in q.support)
    return Counter(counts)


ONE_POINT = {"qa15", "qa16", "qa17", "qa19"}  # all facts come before the first question
FEWEST_POINTS = {"qa14": 6, "qa20": 10}  # of complete stories
WITHOUT_PERSONS = {"qa4", "qa17", "qa18", "qa19"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("points", [1, 2, 12])
def test_points_is_the_number_of_question_points(task, points):
    fewest = min(points, 1 if task in ONE_POINT else FEWEST_POINTS.get(task, points))
    most = 1 if task in ONE_POINT else points
    for index in range(20):
        at = check_form(simulate(task, 1, index, points=points, per_point=1))
        assert fewest <= len(at) <= most and set(at.values()) == {1}


@pytest.mark.parametrize("task", TASKS)
def test_a_story_with_fewer_points_is_the_beginning_of_a_longer_one(task):
    for index in range(20):
        one, two, more = (simulate(task, 2, index, points=n) for n in (1, 2, 30))
        for a, b in ((one, two), (two, more)):
            assert b.facts[: len(a.facts)] == a.facts
            assert b.questions[: len(a.questions)] == a.questions


@pytest.mark.parametrize("task", TASKS)
def test_per_point_asks_different_questions(task):
    most = 0
    for index in range(30):
        story = simulate(task, 1, index, points=4, per_point=5)
        at = check_form(story)
        assert len(at) == (1 if task in ONE_POINT else 4)
        assert len({(q.num_facts, q.text) for q in story.questions}) == at.total()
        most = max(most, *at.values())
    assert most == 1 if task == "qa16" else 1 < most <= 5


@pytest.mark.parametrize(("task", "questions"), [("qa15", 4), ("qa17", 8), ("qa19", None)])
def test_a_large_per_point_asks_all_questions(task, questions):
    for index in range(30):
        story = simulate(task, 1, index, per_point=1000)
        if task == "qa19":  # every path of two steps, in both directions
            doors = Counter(room for fact in story.facts for room in re.findall("he (\\w+)", fact))
            questions = sum(n * (n - 1) for n in doors.values())
        assert len(story.questions) == questions


def test_per_point_asks_about_every_person_once_before_one_twice():
    for index in range(30):
        for per_point, story in ((n, simulate("qa1", 2, index, per_point=n)) for n in (2, 4)):
            for count in {q.num_facts for q in story.questions}:
                moved = {fact.split()[0] for fact in story.facts[:count]}
                asked = [q.text[9:-1] for q in story.questions if q.num_facts == count]
                assert len(asked) == len(set(asked)) == min(per_point, len(moved))
                assert set(asked) <= moved
        story = simulate("qa6", 2, index, points=4, per_point=9)
        last = [q.text.split()[1] for q in story.questions if q.num_facts == len(story.facts)]
        assert len(set(last[: len(set(last))])) == len(set(last)) < len(last)


@pytest.mark.parametrize("task", TASKS)
def test_per_point_does_not_change_facts_or_first_question(task):
    for index in range(200):
        usual, *others = (simulate(task, 1, index, points=1, per_point=n) for n in (None, 1, 4))
        assert all(other.facts == usual.facts for other in others)
        assert {story.questions[0] for story in others} == {usual.questions[0]}


@pytest.mark.parametrize("task", [task for task in TASKS if task not in WITHOUT_PERSONS])
def test_persons_restricts_who_occurs(task):
    def named(**options):
        facts = [" ".join(simulate(task, 1, index, **options).facts) for index in range(30)]
        return set(re.findall(f"{NAMES['PERSON']}|{NAMES['NAMED']}", " ".join(facts)))

    two, three, every = named(persons=2), named(persons=3), named()
    assert two < three < every
    assert [len(two), len(three), len(every)] == [2, 3, 5 if task == "qa16" else 4]


@pytest.mark.parametrize("task", sorted(WITHOUT_PERSONS))
def test_persons_has_no_effect_in_tasks_without_persons(task):
    assert simulate(task, 1, 2, persons=3) == simulate(task, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("qa21", 0, 0), r"unknown task 'qa21'; the most similar tasks are .*qa1"),
        (("qa1", 0.5, 0), r"seed must be an integer, got 0.5"),
        (("qa1", 0, None), r"index must be an integer, got None"),
        (("qa1", 0, 0, 0), r"points must be an integer of 1 or more, got 0"),
        (("qa1", 0, 0, 1, -1), r"per_point must be an integer of 1 or more, got -1"),
        (("qa1", 0, 0, 1, 1, 5), r"persons of qa1 must be an integer of 1..4, got 5"),
        (("qa5", 0, 0, 1, 1, 1), r"persons of qa5 must be an integer of 2..4, got 1"),
        (("qa12", 0, 0, 1, 1, 1), r"persons of qa12 must be an integer of 2..4, got 1"),
        (("qa16", 0, 0, 1, 1, 6), r"persons of qa16 must be an integer of 2..5, got 6"),
        (("qa4", 0, 0, 1, 1, "x"), r"persons of qa4 must be an integer of 1 or more"),
    ],
)
def test_errors_name_the_bad_argument(arguments, message):
    named = dict(zip(("points", "per_point", "persons"), arguments[3:], strict=False))
    with pytest.raises(ValueError, match=message) as raised:
        simulate(*arguments[:3], **named)
    assert "\n" not in str(raised.value)
