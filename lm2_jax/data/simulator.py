"""Simulated bAbI stories: the language and the statistics of the real files, without end.

A story is a function of (task, seed, index) alone. A task is a row of `_TASKS`: who and what is
in its world, what happens there, in which words, and what is asked. As in the real files, a
question may follow every second fact; it is about a random one of the last five facts, and there
is none where no question about those has an answer.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lm2_jax.data import simulator_questions as ask
from lm2_jax.data import simulator_world as acts
from lm2_jax.data.babi import Question, Story
from lm2_jax.data.simulator_questions import Asked
from lm2_jax.data.simulator_world import Act, Dice, Event, Listener, World

_FACTS_PER_POINT = 2
_WINDOW = 5

_DROPS = [f"{{0}} {verb} the {{1}}" for verb in ("left", "discarded", "dropped", "put down")]
_GETS = [f"{{0}} {verb} the {{1}}" for verb in ("got", "took", "grabbed", "picked up")]


def _sometimes_there(sentences: list[str]) -> list[str]:
    """One time in five with "there" at the end."""
    return [f"{s}{end}" for s in sentences for end in (".", ".", ".", ".", " there.")]


_WORDS = {
    "move": [
        f"{{0}} {verb} to the {{1}}."
        for verb in ("went", "journeyed", "travelled", "went back", "moved")
    ],
    "be": ["{0} is in the {1}."],
    "leave": ["{0} is not in the {1}.", "{0} is no longer in the {1}."],
    "either": ["{0} is either in the {1} or the {2}.", "{0} is either in the {2} or the {1}."],
    "get": [f"{s} there." for s in _GETS],
    "drop": _sometimes_there(_DROPS),
    "give": [f"{{0}} {verb} the {{1}} to {{2}}." for verb in ("gave", "handed", "passed")],
    **{name: [f"The {{0}} is {name} of the {{1}}."] for name in acts.OPPOSITE},
}


def _who(index: int, event: Event) -> str:
    return event.who


def _what(index: int, event: Event) -> str:
    return event.what


def _fact(index: int, event: Event) -> int:
    return index


@dataclass(frozen=True)
class _Task:
    happens: tuple[Act, ...]  # drawn evenly, again if it cannot be
    kinds: tuple[str, ...]  # the kinds of facts that are asked about
    about: Callable[[int, Event], str | int]  # what of such a fact is asked about
    ask: Callable[[Listener, str | int, World], Iterator[Asked]]
    points: int = 5
    persons: tuple[str, ...] = ("Mary", "John", "Daniel", "Sandra")
    places: tuple[str, ...] = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
    objects: tuple[str, ...] = ("apple", "football", "milk")
    fewest_persons: int = 1
    words: dict[str, list[str]] = field(default_factory=lambda: _WORDS)


_MOVING = (acts.move,)
_CARRYING = (acts.move, acts.get, acts.drop)
_GIVING = (*_CARRYING, acts.give)
_IN_TOWN = ("kitchen", "office", "bedroom", "park", "school", "cinema")

_TASKS = {
    "qa1": _Task(_MOVING, ("move",), _who, ask.where_person, objects=()),
    "qa2": _Task(_CARRYING, ("get", "drop"), _what, ask.where_object),
    "qa3": _Task(
        _CARRYING,
        ("get", "drop"),
        _what,
        ask.where_before,
        words=_WORDS | {"get": _sometimes_there(_GETS)},
    ),
    "qa4": _Task(
        (acts.relate,), tuple(acts.OPPOSITE), _fact, ask.neighbour, points=1, persons=(), objects=()
    ),
    "qa5": _Task(
        _GIVING,
        ("give",),
        _what,
        ask.gift,
        persons=("Mary", "Fred", "Bill", "Jeff"),
        fewest_persons=2,
    ),
    "qa6": _Task(_CARRYING, ("move",), _who, ask.is_in),
    "qa7": _Task(
        _GIVING,
        ("get", "drop", "give"),
        _who,
        ask.how_many,
        persons=("John", "Mary", "Sandra", "Daniel"),
    ),
    "qa8": _Task(_CARRYING, ("get", "drop"), _who, ask.what_held),
    "qa9": _Task(
        (acts.move, acts.move, acts.be, acts.leave),
        ("move", "be", "leave"),
        _who,
        ask.is_in,
        objects=(),
    ),
    "qa10": _Task(
        (acts.move, acts.move, acts.be, acts.either),
        ("move", "be", "either"),
        _who,
        ask.is_in,
        persons=("Bill", "Fred", "Julie", "Mary"),
        places=_IN_TOWN,
        objects=(),
    ),
}

TASKS = tuple(_TASKS)  # the names of the tasks that can be simulated


def simulate(
    task: str,
    seed: int,
    index: int,
    *,
    points: int | None = None,
    per_point: int = 1,
    persons: int | None = None,
    turns: bool = False,
) -> Story:
    """Returns story number `index` of a task: always the same one for the same arguments.

    Args:
        task: one of `TASKS`.
        seed: names an endless set of stories.
        index: the number of the story in the set.
        points: how many times questions are asked; by default as in the real file.
        per_point: how many questions are asked each time, all different; fewer where fewer have
            an answer. The first of them is distributed as in the real file.
        persons: how many of the task's persons there are; by default all. Without effect in a
            task without persons.
        turns: nobody acts again before all others have, but to give what they hold; not as in the
            real files, but the last of the facts then tells less of the answers.

    Raises:
        ValueError: the task is unknown, or a number is out of its range.
    """
    row = _row(task)
    points = _number("points", row.points if points is None else points)
    per_point = _number("per_point", per_point)
    if persons is not None:
        most = len(row.persons) or None
        persons = _number(f"persons of {task}", persons, row.fewest_persons, most)
    seed, index = _number("seed", seed, None), _number("index", index, None)

    dice = Dice(task, seed, index)
    world = World(dice, row.persons[:persons], row.places, row.objects)
    known = Listener()
    subjects: dict[str | int, None] = {}  # all that can be asked about, in the order of telling
    facts: list[str] = []
    questions: list[Question] = []
    everybody, acted = world.persons, set()
    while points:
        for _ in range(_FACTS_PER_POINT):
            if turns and everybody:
                acted = acted if len(acted) < len(everybody) else set()
                world.persons = [person for person in everybody if person not in acted]
            event = _happen(row, world)
            acted.add(event.who)
            known.hear(event)
            if event.kind in row.kinds:
                subjects[row.about(len(facts), event)] = None
            facts.append(dice.pick(row.words[event.kind]).format(*event[1:]))
        world.persons = everybody
        asked = _ask(row, known, subjects, world, per_point)
        questions += [Question(*question, len(facts)) for question in asked]
        points -= bool(asked)
    return Story(task, tuple(facts), tuple(questions))


def _row(task: str) -> _Task:
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=3, cutoff=0.0)
        raise ValueError(f"unknown task {task!r}: the nearest that can be simulated are {near}")
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
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def _happen(row: _Task, world: World) -> Event:
    while True:
        event = world.dice.pick(row.happens)(world)
        if event:
            return event


def _ask(
    row: _Task, known: Listener, subjects: Iterable[str | int], world: World, count: int
) -> list[Asked]:
    """Up to `count` different questions, the first about one of the last facts."""
    recent = _recent_subjects(row, known)
    while recent:
        first = world.dice.pick(recent)
        ways = row.ask(known, first, world)
        question = next(ways, None)
        if question:
            break
        recent = [subject for subject in recent if subject != first]
    else:
        return []
    asked = {question[0]: question}
    if count > 1:
        others = world.dice.shuffled([s for s in subjects if s != first])
        queue = [row.ask(known, s, world) for s in others] + [ways]
        # One question about each subject before a second one about any.
        while queue and len(asked) < count:
            ways = queue.pop(0)
            question = next(ways, None)
            if question:
                asked.setdefault(question[0], question)
                queue.append(ways)
    return list(asked.values())


def _recent_subjects(row: _Task, known: Listener) -> list[str | int]:
    told, start = known.told, max(0, len(known.told) - _WINDOW)
    return [row.about(i, told[i]) for i in range(start, len(told)) if told[i].kind in row.kinds]
