"""Compares the independent solver with the published bAbI files, and the simulator with it."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from solver import Solver, solve

from lm2_jax.data.babi import files as babi
from lm2_jax.data.babi.simulator import tasks
from lm2_jax.data.babi.simulator.tasks import simulate
from lm2_jax.data.babi.story import Question, Story

SIMULATED = tasks.TASKS  # which are bAbI's
real_data = pytest.mark.skipif("LM2_TEST_DATA" not in os.environ, reason="LM2_TEST_DATA is not set")


def wrong_answers(story: Story) -> list[str]:
    """Returns a line for each question that the solver answers differently or cannot reach."""
    solver, first, lines = Solver(story.task), 0, []
    for number, question in enumerate(story.questions):
        context = f"after {' '.join(story.facts[: question.num_facts])}"
        try:
            for fact in story.facts[first : question.num_facts]:
                solver.tell(fact)
            answer = solver.ask(question.text)
        except ValueError as error:
            return lines + [f"{error} {context}"] * (len(story.questions) - number)
        first = question.num_facts
        if answer != question.answer:
            lines.append(f"{question.text} story: {question.answer}, solver: {answer}, {context}")
    return lines


def disagreements(stories: Iterable[Story]) -> tuple[list[str], int]:
    """Returns the wrong answers, with the number of the story, and the number of questions."""
    lines, count = [], 0
    for number, story in enumerate(stories):
        count += len(story.questions)
        lines += [f"story {number}: {line}" for line in wrong_answers(story)]
    return lines, count


def report(task: str, lines: list[str], count: int) -> str:
    return f"{task}: {len(lines)} of {count} answers differ:\n" + "\n".join(lines[:3])


@real_data
@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("task", SIMULATED)
def test_solver_agrees_with_the_published_files(task, split):
    folder = Path(os.environ["LM2_TEST_DATA"]) / "babi" / "en-10k"
    lines, count = disagreements(babi.parse(babi.find_file(folder, task, split)))
    assert count >= 1000
    allowed = 0.005 * count if task == "qa5" else 0  # some are not about the last gift
    assert len(lines) <= allowed, report(task, lines, count)


@pytest.mark.parametrize("task", SIMULATED)
def test_solver_agrees_with_the_simulator(task):
    lines, count = disagreements(simulate(task, 0, index) for index in range(2000))
    assert count >= 2000
    assert not lines, report(task, lines, count)


@pytest.mark.parametrize(
    "sizes", [{"per_point": 4}, {"points": 12}, {"points": 12, "per_point": 4}]
)
@pytest.mark.parametrize("task", SIMULATED)
def test_solver_agrees_with_stories_of_other_sizes(task, sizes):
    lines, count = disagreements(simulate(task, 1, index, **sizes) for index in range(200))
    assert count >= 200
    assert not lines, report(task, lines, count)


def test_a_wrong_answer_is_found():
    facts = ("Mary went to the kitchen.", "Mary moved to the office.")
    question = Question("Where is Mary?", "kitchen", support=(0,), num_facts=2)
    lines, count = disagreements([Story("qa1", facts, (question,))])
    assert count == 1
    assert len(lines) == 1 and "story: kitchen, solver: office" in lines[0]


def test_every_question_after_an_impossible_fact_is_wrong():
    facts = ("Mary went to the kitchen.", "Mary moved to the kitchen.")
    questions = [Question("Where is Mary?", "kitchen", (0,), n) for n in (1, 2, 2)]
    lines, count = disagreements([Story("qa1", facts, tuple(questions))])
    assert (len(lines), count) == (2, 3)
    assert all(line.endswith(f"after {' '.join(facts)}") for line in lines)


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
        ("qa3", ["Ann got the cup.", "Ann went to the attic."],
         "Where was the cup before the attic?", "do not answer"),
        ("qa11", ["Mary went to the attic.", "Then he went to the porch."], "Where is Mary?",
         "'he' cannot be Mary"),
        ("qa11", ["Then he went to the porch."], "Where is Bob?", "'he' cannot be nobody"),
        ("qa11", ["Bob went to the attic.", "Then he went to the attic."], "Where is Bob?",
         "already"),
        ("qa12", ["Ann and Ann went to the attic."], "Where is Ann?", "already"),
        ("qa13", ["Ann and Bob went to the attic.", "Then she went to the porch."],
         "Where is Ann?", "'she' cannot be Ann and Bob"),
        ("qa14", ["Yesterday Ann went to the attic.", "Ann went to the porch yesterday."],
         "Where was Ann before the attic?", "at that time"),
        ("qa14", ["This morning Ann went to the attic.", "Yesterday Ann went to the attic."],
         "Where was Ann before the attic?", "just before or after"),
        ("qa14", ["Yesterday Ann went to the attic.", "This afternoon Ann went to the porch."],
         "Where was Ann before the porch?", "do not answer"),
        ("qa15", ["Mice are afraid of cats.", "Mice are afraid of wolves."],
         "What is ann afraid of?", "'cat' was told"),
        ("qa15", ["Frogs are afraid of cats."], "What is ann afraid of?", "no form"),
        ("qa16", ["Ann is a frog.", "Ann is a swan."], "What color is Ann?", "'frog' was told"),
        ("qa16", ["Ann is a frog.", "Bob is a swan.", "Bob is gray."], "What color is Ann?",
         "do not answer"),
        ("qa17", ["The cone is above the cube.", "The cube is above the cone."],
         "Is the cone above the cube?", "has its place"),
        ("qa17", ["The cone is above the cone."], "Is the cone above the cone?", "has its place"),
        ("qa17", ["The cone is above the cube.", "The disc is above the cube."],
         "Is the cone above the disc?", "do not answer"),
        ("qa18", ["The bag fits inside the box.", "The box fits inside the chest.",
                  "The bag is bigger than the chest."], "Is the bag bigger than the box?",
         "cannot be bigger"),
        ("qa18", ["The bag is bigger than the bag."], "Is the bag bigger than the bag?",
         "cannot be bigger"),
        ("qa18", ["The bag fits inside the box.", "The cup fits inside the box."],
         "Does the bag fit in the cup?", "do not answer"),
        ("qa19", ["The attic is north of the porch.", "The shed is north of the porch."],
         "How do you go from the porch to the shed?", "'attic' was told"),
        ("qa19", ["The attic is north of the porch.", "The shed is east of the attic.",
                  "The cellar is east of the porch.", "The shed is north of the cellar."],
         "How do you go from the porch to the shed?", "do not answer"),
        ("qa19", ["The attic is north of the porch.", "The shed is east of the cellar."],
         "How do you go from the porch to the shed?", "do not answer"),
        ("qa20", ["Ann is tired.", "Ann is bored."], "Where will ann go?", "Ann is tired"),
        ("qa20", ["Ann is tired.", "Ann went to the kitchen."], "Why did ann go to the kitchen?",
         "do not answer"),
        ("qa20", ["Ann is tired.", "Ann went to the bedroom.", "Ann went to the attic."],
         "Why did ann go to the bedroom?", "do not answer"),
        ("qa20", ["Ann is tired.", "Ann got the apple there."], "Why did ann get the apple?",
         "do not answer"),
        ("qa20", ["Ann is tired.", "Ann went to the bedroom."], "Where will ann go?",
         "do not answer"),
        ("qa20", ["Ann is tired.", "Ann went to the bedroom."], "Why did ann get the pajamas?",
         "do not answer"),
        ("qa21", [], "Where is Ann?", "no task 'qa21'"),
    ],
)  # fmt: skip
def test_the_solver_refuses_unknown_forms_and_contradictions(task, facts, question, message):
    with pytest.raises(ValueError) as error:
        solve(task, facts, question)
    assert message in str(error.value)
