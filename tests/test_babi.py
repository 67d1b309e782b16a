"""The reader of bAbI files, and the simulator compared with the real files (LM2_TEST_DATA)."""

import collections
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from solver import solve
from templates import template

from lm2_jax.data.babi import files as babi
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babi.simulator.knowledge import Knowledge
from lm2_jax.data.babi.simulator.movement import MOVEMENT_TASKS, RECENT_FACTS
from lm2_jax.data.babi.simulator.sampling import Choices
from lm2_jax.data.babi.simulator.tasks import TASKS, simulate
from lm2_jax.data.babi.simulator.world import Event, World

DATA = os.environ.get("LM2_TEST_DATA")
real_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is not set")
SIMULATED = {"qa3": 1000, "qa4": 6000, "qa16": 6000, "qa19": 6000}  # stories; 2000 of the others
# Largest accepted total variation distance. The real qa3 has 200 stories: of 120 samples of 200
# simulated stories, one in twenty has a distance of 0.067 or more from all 24,000 in the answers,
# and of 0.071 in the distance to the supporting facts. The other tasks have 2,000 stories or more.
LIMIT = {task: 0.075 if task == "qa3" else 0.05 for task in TASKS}

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
    """Returns the share of a's counts whose keys occur in b."""
    return sum(n for key, n in a.items() if key in b) / sum(a.values())


@real_data
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("number", range(1, 21))
def test_real_files_are_read_completely(number, split):
    path = babi.find_file(Path(DATA, "babi/en-10k"), f"qa{number}", split)
    stories = babi.parse(path)
    assert {story.task for story in stories} == {f"qa{number}"}
    assert written(stories, "") == path.read_text().replace(" \t", "\t")


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_sentences_are_distributed_as_in_the_real_file(task):
    ours, theirs = templates(simulated(task)), templates(real(task))
    assert covered(ours, theirs) >= 0.99 <= covered(theirs, ours)
    assert total_variation(ours, theirs) <= 0.03


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_answers_and_support_are_distributed_as_in_the_real_file(task):
    ours, theirs = simulated(task), real(task)
    traits = (
        lambda q: q.answer,
        lambda q: q.num_facts - min(q.support),
        lambda q: q.num_facts - q.support[0],
    )
    for trait in traits:
        counts = [Counter(trait(q) for s in each for q in s.questions) for each in (ours, theirs)]
        assert total_variation(*counts) <= LIMIT[task]


@real_data
@pytest.mark.parametrize("task", TASKS)
def test_stories_have_the_length_of_the_real_ones(task):
    ours, theirs = simulated(task), real(task)
    lengths = [np.mean([len(s.facts) for s in stories]) for stories in (ours, theirs)]
    assert abs(lengths[0] / lengths[1] - 1) <= 0.1
    traits = [lambda s: len(s.questions), lambda s: len({q.text for q in s.questions})]
    if task in ("qa15", "qa16", "qa17", "qa18", "qa19"):  # how often words repeat
        traits.append(lambda s: len(set(" ".join(s.facts).split())))
    for trait in traits:
        counts = [Counter(map(trait, stories)) for stories in (ours, theirs)]
        assert total_variation(*counts) <= LIMIT[task]


MOVED = r"(?:went|journeyed|travelled|went back|moved) to the (\w+)\."
KINDS = {
    "move": rf"(\w+) {MOVED}",
    "get": r"(\w+) (?:got|took|grabbed|picked up) the (\w+)(?: there)?\.",
    "drop": r"(\w+) (?:left|discarded|dropped|put down) the (\w+)(?: there)?\.",
    "give": r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.",
    "be": r"(\w+) is in the (\w+)\.",
    "leave": r"(\w+) is (?:not|no longer) in the (\w+)\.",
    "either": r"(\w+) is either in the (\w+) or the (\w+)\.",
    **{side: rf"The (\w+) is {side} of the (\w+)\." for side in ("north", "south", "east", "west")},
}


BOTH = rf"(\w+) and (\w+) {MOVED}"
AGAIN = rf"(?:Then|Afterwards|After that|Following that) (he|she|they) {MOVED}"


def event_of(fact, before):
    if both := re.fullmatch(BOTH, fact):
        first, second, place = both.groups()
        return Event("both", first, place, second)
    if again := re.fullmatch(AGAIN, fact):
        return Event(again[1], before.who, again[2], before.other)
    found = {kind: re.fullmatch(pattern, fact) for kind, pattern in KINDS.items()}
    return next(Event(kind, *match.groups()) for kind, match in found.items() if match)


@real_data
@pytest.mark.parametrize("task", MOVEMENT_TASKS)
def test_the_simulator_could_ask_the_questions_of_real_stories_when_they_are_asked(task):
    row = MOVEMENT_TASKS[task]
    world = World(Choices(0), row.persons, row.places, row.objects)
    same_time, same_question = [], []
    for story in real(task)[:150]:
        known, questions = Knowledge(), {q.num_facts: q for q in story.questions}
        recent = collections.deque(maxlen=RECENT_FACTS)
        for count, fact in enumerate(story.facts, start=1):
            event = event_of(fact, known.events[-1] if known.events else None)
            recent.extend(row.subjects(count - 1, event) or (None,))
            known.add(event)
            q = questions.get(count)
            if count % 2 == 0:
                asked = next(row.questions(known, (), recent, world), None)
                same_time.append(bool(asked) == bool(q))
            if q:
                possible = [asked for who in set(recent) - {None}
                            for asked in row.ask(known, who, world)]
                same_question.append((q.text, q.answer, q.support) in possible)
    assert np.mean(same_time) >= 0.99 and np.mean(same_question) >= 0.99


def answered_by_support(story):
    for q in story.questions:
        facts = [story.facts[i] for i in sorted(q.support)]
        if q.text.startswith("Why did "):  # the act is not part of the support
            who, told = q.text.split()[2], story.facts[:q.num_facts]
            facts += [f for f in told if f.lower().startswith(who) and " is " not in f]
        yield solve(story.task, facts, q.text) == q.answer


@real_data
@pytest.mark.parametrize("number", range(11, 21))
def test_supporting_facts_alone_give_the_answer(number):
    task = f"qa{number}"
    for stories in (simulated(task)[:200], real(task)[:200]):
        assert all(answer for story in stories for answer in answered_by_support(story))


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
def test_stories_are_read_back_from_a_file(tmp_path, task, blank):
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
def test_errors_name_the_malformed_line(tmp_path, text, line, message):
    path = tmp_path / "qa1_broken_train.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"qa1_broken_train.txt, line {line}: .*{message}") as e:
        babi.parse(path)
    assert "\n" not in str(e.value)


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text("\ufeff1 A moved.\n2 Where is A?\tattic\t1\n", "utf-8")
    story, = babi.parse(path)
    assert story.facts == ("A moved.",)


def test_errors_name_the_file(tmp_path):
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


def test_a_changed_file_is_read_again(tmp_path):
    for place in ("attic", "porch"):
        fact = f"Ann moved to the {place}."
        (tmp_path / "qa1_x_train.txt").write_text(f"1 {fact}\n2 Where is Ann?\t{place}\t1\n")
        source = story_sources.from_files("qa1", str(tmp_path), "train")
        assert source.draw(np.random.default_rng(0)).facts == (fact,)
