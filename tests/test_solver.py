"""The independent solver against the published bAbI files, and the simulator against it."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
from solver import TASKS, Solver, solve

from lm2_jax.data import babi
from lm2_jax.data.simulator import simulate

SIMULATED = [f"qa{number}" for number in range(1, 11)]


def disagreements(stories: Iterable[babi.Story]) -> tuple[list[str], int]:
    """One line for each answer that the solver does not give, and the number of questions."""
    lines, count = [], 0
    for story in stories:
        solver, facts = Solver(story.task), iter(story.facts)
        told = 0
        try:
            for question in story.questions:
                count += 1
                for fact in islice(facts, question.num_facts - told):
                    solver.tell(fact)
                told = question.num_facts
                answer = solver.ask(question.text)
                if answer != question.answer:
                    lines.append(
                        f"{question.text} story: {question.answer}, solver: {answer}, "
                        f"after {' '.join(story.facts[:told])}"
                    )
        except ValueError as error:
            lines.append(f"{error} in {' '.join(story.facts)}")
    return lines, count


@pytest.mark.skipif("LM2_TEST_DATA" not in os.environ, reason="LM2_TEST_DATA is not set")
@pytest.mark.parametrize("task", TASKS)
def test_solver_agrees_with_the_published_test_files(task):
    folder = Path(os.environ["LM2_TEST_DATA"]) / "babi" / "en-10k"
    lines, count = disagreements(babi.parse(babi.find_file(folder, task, "test")))
    assert count == 1000
    assert len(lines) <= 0.005 * count, "\n".join(lines[:3])


@pytest.mark.parametrize("task", SIMULATED)
def test_simulated_answers_are_those_of_the_solver(task):
    lines, count = disagreements(simulate(task, 0, index) for index in range(2000))
    assert count >= 2000
    assert not lines, f"{len(lines)} of {count}:\n" + "\n".join(lines[:3])


@pytest.mark.parametrize(
    "sizes", [{"per_point": 4}, {"points": 12}, {"points": 12, "per_point": 4}]
)
@pytest.mark.parametrize("task", SIMULATED)
def test_simulated_answers_hold_for_other_sizes(task, sizes):
    lines, count = disagreements(simulate(task, 1, index, **sizes) for index in range(200))
    assert count >= 200
    assert not lines, f"{len(lines)} of {count}:\n" + "\n".join(lines[:3])


def test_the_solver_finds_a_wrong_answer():
    facts = ("Mary went to the kitchen.", "Mary moved to the office.")
    question = babi.Question("Where is Mary?", "kitchen", support=(0,), num_facts=2)
    lines, count = disagreements([babi.Story("qa1", facts, (question,))])
    assert count == 1
    assert len(lines) == 1 and "story: kitchen, solver: office" in lines[0]


@pytest.mark.parametrize(
    ("task", "facts", "question", "answer"),
    [
        ("qa2", ["Ann got the cup there.", "Ann went to the attic.", "Ann left the cup.",
                 "Ann moved to the porch."], "Where is the cup?", "attic"),
        ("qa3", ["Ann went to the attic.", "Ann got the cup.", "Ann moved to the porch.",
                 "Ann dropped the cup.", "Ann went to the attic.", "Ann went to the porch."],
         "Where was the cup before the porch?", "attic"),
        ("qa4", ["The attic is east of the porch."], "What is the porch west of?", "attic"),
        ("qa5", ["Ann got the cup there.", "Ann gave the cup to Bob.", "Bob handed the cup to Ann.",
                 "Ann passed the cup to Eve."], "Who received the cup?", "Eve"),
        ("qa7", ["Ann got the cup there.", "Ann got the hat there.", "Ann gave the cup to Bob."],
         "How many objects is Ann carrying?", "one"),
        ("qa8", ["Ann got the cup there.", "Ann got the hat there.", "Ann dropped the cup.",
                 "Ann got the cup there."], "What is Ann carrying?", "cup,hat"),
        ("qa8", ["Ann got the cup there.", "Ann dropped the cup."], "What is Ann carrying?",
         "nothing"),
        ("qa9", ["Ann is in the attic.", "Ann is no longer in the attic."], "Is Ann in the attic?",
         "no"),
        ("qa10", ["Ann is in the attic.", "Ann is either in the porch or the attic."],
         "Is Ann in the attic?", "maybe"),
        ("qa10", ["Ann is either in the porch or the attic."], "Is Ann in the cellar?", "no"),
    ],
)  # fmt: skip
def test_answers_have_the_form_of_the_files(task, facts, question, answer):
    assert solve(task, facts, question) == answer


@pytest.mark.parametrize(
    ("task", "facts", "question", "message"),
    [
        ("qa1", ["Ann strolled to the attic."], "Where is Ann?", "Ann strolled to the attic."),
        ("qa1", ["Ann got the cup there."], "Where is Ann?", "Ann got the cup there."),
        ("qa1", ["Ann went to the attic."], "Is Ann in the attic?", "Is Ann in the attic?"),
        ("qa1", ["Ann went to the attic."], "Where is Bob?", "do not answer 'Where is Bob?'"),
        ("qa1", ["Ann went to the attic.", "Ann moved to the attic."], "Where is Ann?", "already"),
        ("qa9", ["Ann is not in the attic."], "Is Ann in the porch?", "do not answer"),
        ("qa8", ["Ann dropped the cup."], "What is Ann carrying?", "without holding"),
        ("qa8", ["Ann got the cup there.", "Bob got the cup there."], "What is Ann carrying?",
         "somebody holds"),
        ("qa7", ["Ann got the cup there.", "Ann went to the attic.", "Bob went to the porch.",
                 "Ann gave the cup to Bob."], "How many objects is Bob carrying?", "in the porch"),
        ("qa21", [], "Where is Ann?", "no task 'qa21'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_cannot_be_is_refused(task, facts, question, message):
    with pytest.raises(ValueError) as error:
        solve(task, facts, question)
    assert message in str(error.value)
