"""Positions (qa17), sizes (qa18) and paths (qa19): relations that follow from others."""

import itertools
from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer
from lm2_jax.data.babi.simulator.world import OPPOSITE

_SHAPES = ("triangle", "pink rectangle", "red sphere", "blue square", "yellow square", "red square")
_SIDES = {  # relation -> its direction, the inverse relation
    "to the left of": ((-1, 0), "to the right of"),
    "to the right of": ((1, 0), "to the left of"),
    "above": ((0, 1), "below"),
    "below": ((0, -1), "above"),
}
_POSITION_QUESTIONS = 8

_SMALL = ("chocolate", "box of chocolates")  # in order of size, and smaller than the others
_LARGE = ("box", "chest", "container", "suitcase")
_SIZE_FACTS, _SIZE_QUESTIONS = 5, 5

_ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


def positional_reasoning(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """qa17: a shape with two others on two of its sides; the questions relate those two."""
    middle, *ends = choices.shuffled(_SHAPES)[:3]
    facts: list[str] = []
    position: dict[str, tuple[int, int]] = {}
    for end, side in zip(ends, choices.shuffled(tuple(_SIDES)), strict=False):
        position[end], inverse = _SIDES[side]
        forms = (middle, inverse, end), (middle, inverse, end), (end, side, middle)
        facts.append("The {} is {} the {}.".format(*choices.pick(forms)))
    questions: dict[str, list[QuestionAnswer]] = {"yes": [], "no": []}
    for support in ((0, 1), (1, 0)):
        one, other = (ends[i] for i in support)
        for side, (direction, _) in _SIDES.items():
            offset = (position[one][i] - position[other][i] for i in range(2))
            inner = sum(a * b for a, b in zip(offset, direction, strict=True))
            answer = "yes" if inner > 0 else "no"
            questions[answer].append((f"Is the {one} {side} the {other}?", answer, support))
    drawn = [choices.pick(questions[choices.pick(("yes", "no"))])
             for _ in range(_POSITION_QUESTIONS)]
    yield facts, iter(drawn + choices.shuffled(questions["yes"] + questions["no"]))


def size_reasoning(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """qa18: facts about the sizes of things, five at a time until two of them can be linked."""
    by_size = [*_SMALL, *choices.shuffled(_LARGE)]
    pairs: list[tuple[str, str]] = []  # smaller, bigger
    facts: list[str] = []
    while True:
        for _ in range(_SIZE_FACTS):
            drawn = choices.shuffled(range(len(by_size)))[:2]
            small, big = (by_size[i] for i in sorted(drawn))
            pairs.append((small, big))
            forms = f"The {small} fits inside the {big}.", f"The {big} is bigger than the {small}."
            facts.append(choices.pick(forms))
        questions = [q for link in _links(pairs) for q in _size_questions(pairs, *link)]
        if questions:
            draws = [choices.pick(questions) for _ in range(_SIZE_QUESTIONS)]
            yield facts, iter(draws + choices.shuffled(questions))
            facts = []


def _links(pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Returns linked facts (i, j): what is bigger in one is smaller in the other.

    j is the first other fact about one of the two things of fact i; only this one is considered.
    """
    links = []
    for index, pair in enumerate(pairs):
        for role, shared in enumerate(pair):
            others = (i for i, other in enumerate(pairs) if i != index and shared in other)
            first = next(others, index)
            if pairs[first][1 - role] == shared:
                links.append((index, first))
    return links


def _size_questions(pairs: Sequence[tuple[str, str]], index: int, first: int
                    ) -> tuple[QuestionAnswer, QuestionAnswer]:
    """Returns both questions about the things that two linked facts do not share."""
    yes = pairs[first][1] == pairs[index][0]
    small, big = ((pairs[first][0], pairs[index][1]) if yes
                  else (pairs[first][1], pairs[index][0]))
    answer, support = ("yes" if yes else "no"), (index, first)
    return ((f"Does the {small} fit in the {big}?", answer, support),
            (f"Is the {big} bigger than the {small}?", answer, support))


def path_finding(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """qa19: a path of two steps, which is asked for, and three more rooms beside its rooms.

    As in the real files, two rooms can have the same place on a map.
    """
    start, middle, goal, *others = choices.shuffled(_ROOMS)
    neighbours: dict[str, dict[str, str]] = {room: {} for room in _ROOMS}  # room -> side -> room

    def connect(room: str, side: str, other: str) -> None:
        neighbours[room][side], neighbours[other][OPPOSITE[side]] = other, room

    for room, side in zip((start, goal), choices.shuffled(tuple(OPPOSITE)), strict=False):
        connect(middle, side, room)
    free = [(room, side) for room in (start, middle, goal) for side in OPPOSITE
            if side not in neighbours[room]]
    for other, (room, side) in zip(others, choices.shuffled(free), strict=False):
        connect(room, side, other)

    fact_of: dict[frozenset[str], int] = {}  # two rooms -> index of the fact about them
    facts: list[str] = []
    while len(facts) < len(_ROOMS) - 1:
        room = choices.pick(_ROOMS)
        side = choices.pick(tuple(neighbours[room]))
        other = neighbours[room][side]
        if frozenset((room, other)) not in fact_of:
            fact_of[frozenset((room, other))] = len(facts)
            facts.append(f"The {room} is {OPPOSITE[side]} of the {other}.")

    def question(one: str, via: str, other: str) -> QuestionAnswer:
        steps = (one, via), (via, other)
        sides = [next(side for side, room in neighbours[a].items() if room == b) for a, b in steps]
        text = f"How do you go from the {one} to the {other}?"
        support = tuple(fact_of[frozenset(step)] for step in steps)
        return text, f"{sides[0][0]},{sides[1][0]}", support

    paths = [(one, via, other) for via, beside in neighbours.items()
             for one, other in itertools.permutations(beside.values(), 2)]
    yield facts, (question(*path) for path in [(start, middle, goal), *choices.shuffled(paths)])
