"""Simulated bAbI stories with the language and the statistics of the real files.

A story depends on (task, seed, index) alone.
"""

import difflib
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lm2_jax.data.babi.simulator import agents, deduction, recall, relations
from lm2_jax.data.babi.simulator.movement import MOVEMENT_TASKS, MovementTask
from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer
from lm2_jax.data.babi.story import Question, Story
from lm2_jax.errors import UserError


@dataclass(frozen=True)
class _Task:
    """How the stories of a task are generated.

    Attributes:
      generate: yields question points: new facts, and questions about all facts so far.
      persons: all persons, or animals with a name, of the task.
      min_persons: the fewest persons with whom the task works.
      points, questions_per_point: as in the real file.
      generate_in_turns: as `generate`, but persons act in turns; None if the task has no turns.
    """

    generate: Callable[[Choices, Sequence[str]], Iterator[Point]]
    persons: tuple[str, ...] = ()
    min_persons: int = 1
    points: int = 5
    questions_per_point: int = 1
    generate_in_turns: Callable[[Choices, Sequence[str]], Iterator[Point]] | None = None


def _movement(task: MovementTask) -> _Task:
    in_turns = functools.partial(task.generate, turns=True) if task.persons else None
    return _Task(task.generate, task.persons, task.min_persons, task.points,
                 generate_in_turns=in_turns)


_TASKS = {
    **{name: _movement(task) for name, task in MOVEMENT_TASKS.items()},  # qa1 to qa13
    "qa14": _Task(agents.time_reasoning, agents.TIME_PERSONS),
    "qa15": _Task(deduction.basic_deduction, deduction.DEDUCTION_ANIMALS, points=1,
                  questions_per_point=4),
    "qa16": _Task(deduction.basic_induction, deduction.INDUCTION_ANIMALS, min_persons=2, points=1),
    "qa17": _Task(relations.positional_reasoning, points=1, questions_per_point=8),
    "qa18": _Task(relations.size_reasoning, points=1, questions_per_point=5),
    "qa19": _Task(relations.path_finding, points=1),
    "qa20": _Task(agents.agents_motivations, agents.MOTIVATION_PERSONS, points=12),
    "kv": _Task(recall.key_value_recall),
}

TASKS = tuple(name for name in _TASKS if name != "kv")
"""The names of bAbI's tasks, "qa1" to "qa20"."""


def simulate(
    task: str,
    seed: int,
    index: int,
    *,
    points: int | None = None,
    per_point: int | None = None,
    persons: int | None = None,
    turns: bool = False,
) -> Story:
    """Returns story `index` of a task; equal arguments give equal stories.

    Args:
      task: one of `TASKS`, or "kv", key-value recall, which has no real file.
      seed: selects an endless sequence of stories.
      index: the number of the story in the sequence.
      points: how many times questions are asked; None for the number of the real file. Some
        stories end earlier: qa15, qa16, qa17 and qa19 after one point; kv after 24, with 48 of its
        49 keys; qa14 and qa20 when every person has done everything they can (with all persons,
        after 6 points or more in qa14, 10 or more in qa20).
      per_point: how many questions are asked at each point, all different; fewer if fewer have an
        answer (qa16 has one). The first is distributed as in the real file. None for the number of
        the real file, where questions can recur: 4 in qa15, 8 in qa17, 5 in qa18, otherwise 1.
      persons: uses only the first so many persons (or animals with a name) of the task; None for
        all. No effect in a task without persons.
      turns: nobody acts again before all others have; in qa5 and qa7 with the exception of giving.
        Unlike in the real files, the last facts then say less about the answers. No effect
        outside qa1 to qa13 and in qa4.

    Raises:
      UserError: the task is unknown, or a number is out of its range.
    """
    row = _task(task)
    points = _number("points", row.points if points is None else points)
    if per_point is not None:
        per_point = _number("per_point", per_point)
    if persons is not None:
        most = len(row.persons) or None
        persons = _number(f"persons of {task}", persons, row.min_persons, most)
    seed, index = _number("seed", seed, None), _number("index", index, None)

    choices = Choices(task, seed, index)
    facts: list[str] = []
    questions: list[Question] = []
    generate = row.generate_in_turns if turns and row.generate_in_turns else row.generate
    for new_facts, possible in itertools.islice(generate(choices, row.persons[:persons]), points):
        facts += new_facts
        asked = possible if per_point is None else _different(possible)
        for question in itertools.islice(asked, per_point or row.questions_per_point):
            questions.append(Question(*question, len(facts)))
    return Story(task, tuple(facts), tuple(questions))


def _different(questions: Iterator[QuestionAnswer]) -> Iterator[QuestionAnswer]:
    texts = set()
    for question in questions:
        if question[0] not in texts:
            texts.add(question[0])
            yield question


def _task(name: str) -> _Task:
    if name not in _TASKS:
        similar = difflib.get_close_matches(str(name), _TASKS, n=3, cutoff=0.0)
        raise UserError(f"unknown task {name!r}; the most similar tasks are {', '.join(similar)}")
    return _TASKS[name]


def _number(name: str, value: int, low: int | None = 1, high: int | None = None) -> int:
    if high is not None:
        wanted = f"an integer of {low}..{high}"
    else:
        wanted = "an integer" if low is None else f"an integer of {low} or more"
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be {wanted}, got {value!r}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise UserError(f"{name} must be {wanted}, got {value!r}")
    return number
