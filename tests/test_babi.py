"""The bAbI reader, and the simulator: against the real files where LM2_TEST_DATA holds them."""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lm2_jax.data import babi, simulator
from lm2_jax.data.simulator import TASKS, simulate
from lm2_jax.data.simulator_world import Dice, Event, Listener, World

DATA = os.environ.get("LM2_TEST_DATA")
real_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is not set")
SIMULATED = {"qa3": 1000, "qa4": 6000}  # stories; 2000 of the other tasks
# Of 120 samples of 200 simulated stories, as many as the real qa3 has, one in twenty is further
# than 0.067 from the answers, and 0.071 from the ages, of all 24000. The others have 2000 or more.
LIMIT = {task: 0.075 if task == "qa3" else 0.05 for task in TASKS}

NAMES = {
    "PERSON": "Mary|John|Daniel|Sandra|Fred|Bill|Jeff|Julie",
    "PLACE": "bathroom|hallway|garden|office|bedroom|kitchen|school|park|cinema",
    "OBJECT": "football|milk|apple",
}


@cache
def template(sentence):
    for kind, names in NAMES.items():
        sentence = re.sub(rf"\b({names})\b", kind, sentence)
    return sentence


@cache
def real(task, split="train"):
    return babi.parse(babi.find_file(Path(DATA, "babi/en-10k"), task, split))


@cache
def simulated(task):
    return [simulate(task, 0, index) for index in range(SIMULATED.get(task, 2000))]


def templates(stories):
    sentences = ((*story.facts, *(q.text for q in story.questions)) for story in stories)
    return Counter(template(sentence) for told in sentences for sentence in told)


def total_variation(a, b):
    return sum(abs(a[key] / a.total() - b[key] / b.total()) for key in a | b) / 2


def covered(a, b):
    """The share of a's mass on what occurs in b."""
    return sum(n for key, n in a.items() if key in b) / sum(a.values())


@real_data
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("number", range(1, 21))
def test_every_real_file_is_read_in_full(number, split):
    path = babi.find_file(Path(DATA, "babi/en-10k"), f"qa{number}", split)
    stories = babi.parse(path)
    assert {story.task for story in stories} == {f"qa{number}"}
    assert written(stories, "") == path.read_text().replace(" \t", "\t")


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_language_is_that_of_the_real_file(task):
    ours, theirs = templates(simulated(task)), templates(real(task))
    assert covered(ours, theirs) >= 0.99 <= covered(theirs, ours)
    assert total_variation(ours, theirs) <= 0.03


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_the_real_ones_and_lie_as_far_back(task):
    ours, theirs = simulated(task), real(task)
    for trait in (lambda q: q.answer, lambda q: q.num_facts - min(q.support)):
        counts = [Counter(trait(q) for s in each for q in s.questions) for each in (ours, theirs)]
        assert total_variation(*counts) <= LIMIT[task]


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_stories_are_as_long_as_the_real_ones(task):
    ours, theirs = simulated(task), real(task)
    lengths = [np.mean([len(s.facts) for s in stories]) for stories in (ours, theirs)]
    assert abs(lengths[0] / lengths[1] - 1) <= 0.1
    assert {len(s.questions) for s in ours} == {len(s.questions) for s in theirs}


KINDS = {
    "move": r"(\w+) (?:went|journeyed|travelled|went back|moved) to the (\w+)\.",
    "get": r"(\w+) (?:got|took|grabbed|picked up) the (\w+)(?: there)?\.",
    "drop": r"(\w+) (?:left|discarded|dropped|put down) the (\w+)(?: there)?\.",
    "give": r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.",
    "be": r"(\w+) is in the (\w+)\.",
    "leave": r"(\w+) is (?:not|no longer) in the (\w+)\.",
    "either": r"(\w+) is either in the (\w+) or the (\w+)\.",
    **{side: rf"The (\w+) is {side} of the (\w+)\." for side in ("north", "south", "east", "west")},
}


def event_of(fact):
    found = {kind: re.fullmatch(pattern, fact) for kind, pattern in KINDS.items()}
    return next(Event(kind, *match.groups()) for kind, match in found.items() if match)


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_real_stories_are_asked_when_and_what_the_simulator_would_ask(task):
    row = simulator._TASKS[task]
    world = World(Dice(0), row.persons, row.places, row.objects)
    timely, known_answers = [], []
    for story in real(task)[:150]:
        listener, questions = Listener(), {q.num_facts: q for q in story.questions}
        for count, fact in enumerate(story.facts, start=1):
            listener.hear(event_of(fact))
            q = questions.get(count)
            if count % 2 == 0:
                timely.append(bool(simulator._ask(row, listener, (), world, 1)) == bool(q))
            if q:
                recent = set(simulator._recent_subjects(row, listener))
                possible = [asked for who in recent for asked in row.ask(listener, who, world)]
                known_answers.append((q.text, q.answer, q.support) in possible)
    assert np.mean(timely) >= 0.99 and np.mean(known_answers) >= 0.99


@pytest.mark.parametrize("task", TASKS)
def test_a_story_depends_on_its_arguments_alone(task):
    first = simulate(task, 3, 7)
    others = [simulate(other, 3, index) for other in TASKS for index in range(3)]
    assert simulate(task, 3, 7) == first
    assert simulate(task, np.int64(3), np.int32(7)) == first
    assert first not in others
    assert first not in (simulate(task, 3, 8), simulate(task, 4, 7), simulate(task, 7, 3))
    assert len({simulate(task, 0, index) for index in range(200)}) >= 180  # short ones recur


def test_another_process_tells_the_same_stories():
    stories = "[simulate(task, 5, 2, per_point=3) for task in reversed(TASKS)]"
    program = f"from lm2_jax.data.simulator import TASKS, simulate; print({stories})"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "12345"}
    told = subprocess.check_output([sys.executable, "-c", program], env=env, text=True)
    assert told.strip() == str(eval(stories))


def check_form(story):
    assert all(fact.endswith(".") for fact in story.facts)
    counts = [question.num_facts for question in story.questions]
    assert counts == sorted(counts) and counts[-1] == len(story.facts)
    for q in story.questions:
        assert q.text.endswith("?") and q.answer
        assert q.support and all(0 <= i < q.num_facts for i in q.support)
    return Counter(counts)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("points", [1, 2, 12])
def test_points_counts_the_times_of_asking(task, points):
    for index in range(20):
        at = check_form(simulate(task, 1, index, points=points))
        assert len(at) == points and set(at.values()) == {1}


@pytest.mark.parametrize("task", TASKS)
def test_per_point_asks_different_questions(task):
    most = 0
    for index in range(30):
        story = simulate(task, 1, index, points=4, per_point=5)
        at = check_form(story)
        assert len(at) == 4 and len({(q.num_facts, q.text) for q in story.questions}) == at.total()
        most = max(most, *at.values())
    assert 1 < most <= 5


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
def test_dense_questions_leave_the_first_one_as_it_was(task):
    counts = []
    for n in (1, 4):
        stories = (simulate(task, n, index, points=1, per_point=n) for index in range(1500))
        first = [story.questions[0] for story in stories]
        counts.append(Counter(template(q.text + q.answer) for q in first))
    assert total_variation(*counts) <= 0.06


@pytest.mark.parametrize("task", [task for task in TASKS if task != "qa4"])
def test_persons_leaves_the_others_out(task):
    def named(**options):
        facts = [" ".join(simulate(task, 1, index, **options).facts) for index in range(30)]
        return set(re.findall(NAMES["PERSON"], " ".join(facts)))

    two, three, every = named(persons=2), named(persons=3), named()
    assert two < three < every and [len(two), len(three), len(every)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("qa21", 0, 0), r"unknown task 'qa21': .*qa1"),
        (("qa1", 0.5, 0), r"seed must be an integer, got 0.5"),
        (("qa1", 0, None), r"index must be an integer, got None"),
        (("qa1", 0, 0, 0), r"points must be an integer of 1 or more, got 0"),
        (("qa1", 0, 0, 1, -1), r"per_point must be an integer of 1 or more, got -1"),
        (("qa1", 0, 0, 1, 1, 5), r"persons of qa1 must be an integer of 1..4, got 5"),
        (("qa5", 0, 0, 1, 1, 1), r"persons of qa5 must be an integer of 2..4, got 1"),
        (("qa4", 0, 0, 1, 1, "x"), r"persons of qa4 must be an integer of 1 or more"),
    ],
)
def test_bad_arguments_are_named_in_one_line(arguments, message):
    named = dict(zip(("points", "per_point", "persons"), arguments[3:], strict=False))
    with pytest.raises(ValueError, match=message) as raised:
        simulate(*arguments[:3], **named)
    assert "\n" not in str(raised.value)


def written(stories, blank):
    lines = []
    for story in stories:
        told = [(i + 0.5, fact, ()) for i, fact in enumerate(story.facts)]
        asked = [(q.num_facts, f"{q.text}{blank}\t{q.answer}", q.support) for q in story.questions]
        body = sorted(told + asked, key=lambda line: line[0])
        ids = [number for number, line in enumerate(body, start=1) if not line[2]]
        for number, (_, text, support) in enumerate(body, start=1):
            lines.append(f"{number} {text}")
            if support:
                lines[-1] += "\t" + " ".join(str(ids[i]) for i in support)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("blank", [" ", ""])
@pytest.mark.parametrize("task", TASKS)
def test_reads_back_what_was_written(tmp_path, task, blank):
    stories = [simulate(task, 0, index, per_point=2) for index in range(5)]
    path = tmp_path / f"{task}_some-name_train.txt"
    path.write_text(written(stories, blank))
    assert babi.parse(path) == stories
    assert babi.find_file(tmp_path, task, "train") == path


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("Mary left.\n", 1, "expected 'ID FACT.' or"),
        ("1 A moved.\n\n2 B moved.\n", 2, "expected 'ID FACT.' or"),
        ("2 A moved.\n", 1, "expected ID 1, found 2"),
        ("1 A moved.\n3 B moved.\n", 2, "expected ID 2, or 1 for a new story, found 3"),
        ("1 A moved\n", 1, "expected a fact that ends with '.'"),
        ("1 A moved.\n2 Where is A? \tattic\n", 2, r"expected 'QUESTION\?<TAB>ANSWER<TAB>SUPPORT"),
        ("1 A moved.\n2 Where is A\tattic\t1\n", 2, r"expected 'QUESTION\?<TAB>ANSWER<TAB>SUPP"),
        ("1 A moved.\n2 Where is A?\tattic\tx\n", 2, "support IDs of earlier facts.*found x"),
        ("1 A.\n2 Is A?\tno\t1\n3 Is A?\tno\t2\n", 3, "support IDs of earlier facts.*found 2"),
        ("1 A.\n2 B.\n1 A.\n2 Is A?\tno\t1\n3 Is B?\tno\t9\n", 5, "earlier facts.*found 9"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, line, message):
    path = tmp_path / "qa1_broken_train.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"qa1_broken_train.txt, line {line}: .*{message}") as e:
        babi.parse(path)
    assert "\n" not in str(e.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    empty, wrong = tmp_path / "qa2_empty_train.txt", tmp_path / "qa21_x_train.txt"
    empty.write_text("")
    wrong.write_text("1 A moved.\n")
    with pytest.raises(ValueError, match="qa2_empty_train.txt: the file is empty"):
        babi.parse(empty)
    with pytest.raises(ValueError, match="qa21_x_train.txt: the name must begin with the task"):
        babi.parse(wrong)
    with pytest.raises(FileNotFoundError, match="qa3_x_train.txt: no such file"):
        babi.parse(tmp_path / "qa3_x_train.txt")
    with pytest.raises(FileNotFoundError, match=r"no qa3_\*_test.txt in "):
        babi.find_file(tmp_path, "qa3", "test")
    (tmp_path / "qa2_second_train.txt").write_text("1 A moved.\n")
    with pytest.raises(ValueError, match=r"more than one qa2_\*_train.txt"):
        babi.find_file(tmp_path, "qa2", "train")
