"""Simulated bAbI stories: the language and the statistics of the real files, without end.

A story is a function of (task, seed, index) alone. A task is a row of `_TASKS`: what tells its
stories, point by point (facts, then questions about them), and how many points and questions a
story of the real file has.
"""

import difflib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lm2_jax.data.babi.files import Question, Story
from lm2_jax.data.babi.simulator import lives as lives
from lm2_jax.data.babi.simulator import logic as logic
from lm2_jax.data.babi.simulator import sides as sides
from lm2_jax.data.babi.simulator import town as town
from lm2_jax.data.babi.simulator.world import Asked, Dice, Point
from lm2_jax.errors import UserError


@dataclass(frozen=True)
class _Task:
    tell: Callable[[Dice, Sequence[str]], Iterator[Point]]
    persons: tuple[str, ...] = ()  # the animals with a name among them
    fewest_persons: int = 1
    points: int = 5
    per_point: int = 1
    in_turns: Callable[[Dice, Sequence[str]], Iterator[Point]] | None = None


def _in_town(name: str, **options: int) -> _Task:
    row = town.TOWNS[name]
    in_turns = functools.partial(row.tell, turns=True) if row.persons else None
    return _Task(row.tell, row.persons, in_turns=in_turns, **options)


_TASKS = {
    "qa1": _in_town("qa1"),
    "qa2": _in_town("qa2"),
    "qa3": _in_town("qa3"),
    "qa4": _in_town("qa4", points=1),
    "qa5": _in_town("qa5", fewest_persons=2),
    "qa6": _in_town("qa6"),
    "qa7": _in_town("qa7"),
    "qa8": _in_town("qa8"),
    "qa9": _in_town("qa9"),
    "qa10": _in_town("qa10"),
    "qa11": _in_town("qa11"),
    "qa12": _in_town("qa12", fewest_persons=2),
    "qa13": _in_town("qa13", fewest_persons=2),
    "qa14": _Task(lives.tell_times, lives.TRAVELLERS),
    "qa15": _Task(logic.tell_fears, logic.AFRAID, points=1, per_point=4),
    "qa16": _Task(logic.tell_colors, logic.COLORED, fewest_persons=2, points=1),
    "qa17": _Task(sides.tell_figures, points=1, per_point=8),
    "qa18": _Task(logic.tell_sizes, points=1, per_point=5),
    "qa19": _Task(sides.tell_rooms, points=1),
    "qa20": _Task(lives.tell_motives, lives.MOVED, points=12),
}

TASKS = tuple(_TASKS)  # the names of the tasks that can be simulated


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
    """Returns story number `index` of a task: always the same one for the same arguments.

    Args:
        task: one of `TASKS`.
        seed: names an endless set of stories.
        index: the number of the story in the set.
        points: how many times questions are asked; by default as in the real file. A story ends
            before where its world has no more to tell: qa15, qa16, qa17 and qa19 after one point,
            qa14 and qa20 when each person has done all they can (6 points or more in qa14 and 10
            or more in qa20, fewer with fewer persons).
        per_point: how many questions are asked each time, all different; fewer where fewer have
            an answer (one in qa16). The first of them is distributed as in the real file. By
            default as many as there, where they may recur: 4 in qa15, 8 in qa17, 5 in qa18, else
            one.
        persons: how many of the task's persons, or of its animals with a name, there are; by
            default all. Without effect in a task without any.
        turns: nobody acts again before all others have, but to give what they hold (qa1..qa13, else
            without effect); not as in the real files, but the last of the facts then tells less of
            the answers.

    Raises:
        ValueError: the task is unknown, or a number is out of its range.
    """
    row = _row(task)
    points = _number("points", row.points if points is None else points)
    if per_point is not None:
        per_point = _number("per_point", per_point)
    if persons is not None:
        most = len(row.persons) or None
        persons = _number(f"persons of {task}", persons, row.fewest_persons, most)
    seed, index = _number("seed", seed, None), _number("index", index, None)

    dice = Dice(task, seed, index)
    facts: list[str] = []
    questions: list[Question] = []
    tell = row.in_turns if turns and row.in_turns else row.tell
    for told, ways in itertools.islice(tell(dice, row.persons[:persons]), points):
        facts += told
        asked = ways if per_point is None else _different(ways)
        for question in itertools.islice(asked, per_point or row.per_point):
            questions.append(Question(*question, len(facts)))
    return Story(task, tuple(facts), tuple(questions))


def _different(ways: Iterator[Asked]) -> Iterator[Asked]:
    texts = set()
    for question in ways:
        if question[0] not in texts:
            texts.add(question[0])
            yield question


def _row(task: str) -> _Task:
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=3, cutoff=0.0)
        raise UserError(f"unknown task {task!r}: the nearest that can be simulated are {near}")
    return _TASKS[task]


def _number(name: str, value: int, low: int | None = 1, high: int | None = None) -> int:
    wanted = "an integer"
    if high is not None:
        wanted = f"an integer of {low}..{high}"
    elif low is not None:
        wanted = f"an integer of {low} or more"
    try:
        number = value.__index__()
    except AttributeError:
        raise UserError(f"{name} must be {wanted}, got {value!r}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise UserError(f"{name} must be {wanted}, got {value!r}")
    return number
