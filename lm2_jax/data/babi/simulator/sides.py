"""The simulated stories of things beside each other: figures (qa17) and rooms (qa19)."""

import itertools
from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.world import OPPOSITE, Asked, Dice, Point

_FIGURES = (
    "triangle", "pink rectangle", "red sphere", "blue square", "yellow square", "red square"
)  # fmt: skip
_SIDES = {  # of a figure: its name, the step there, the other side
    "to the left of": ((-1, 0), "to the right of"),
    "to the right of": ((1, 0), "to the left of"),
    "above": ((0, 1), "below"),
    "below": ((0, -1), "above"),
}
_FIGURES_ASKED = 8

_ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


def tell_figures(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa17: a figure with two others on two of its sides, and questions about those two."""
    middle, *ends = dice.shuffled(_FIGURES)[:3]
    facts, place = [], {}
    for end, side in zip(ends, dice.shuffled(tuple(_SIDES)), strict=False):
        place[end], other_side = _SIDES[side]
        seen = (middle, other_side, end), (middle, other_side, end), (end, side, middle)
        facts.append("The {} is {} the {}.".format(*dice.pick(seen)))
    asked: dict[str, list[Asked]] = {"yes": [], "no": []}
    for support in ((0, 1), (1, 0)):
        one, other = (ends[i] for i in support)
        for side, (step, _) in _SIDES.items():
            offset = (place[one][i] - place[other][i] for i in range(2))
            answer = "yes" if sum(a * b for a, b in zip(offset, step, strict=True)) > 0 else "no"
            asked[answer].append((f"Is the {one} {side} the {other}?", answer, support))
    draws = [dice.pick(asked[dice.pick(("yes", "no"))]) for _ in range(_FIGURES_ASKED)]
    yield facts, iter(draws + dice.shuffled(asked["yes"] + asked["no"]))


def tell_rooms(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa19: a way of two steps, three more rooms on the free sides of its rooms, the way asked for.

    As in the real files, two of the rooms may have the same place on a map.
    """
    start, middle, goal, *others = dice.shuffled(_ROOMS)
    doors: dict[str, dict[str, str]] = {room: {} for room in _ROOMS}  # room -> side -> room

    def join(room: str, side: str, other: str) -> None:
        doors[room][side], doors[other][OPPOSITE[side]] = other, room

    for room, side in zip((start, goal), dice.shuffled(tuple(OPPOSITE)), strict=False):
        join(middle, side, room)
    on_the_way = (start, middle, goal)
    free = [(room, side) for room in on_the_way for side in OPPOSITE if side not in doors[room]]
    for other, (room, side) in zip(others, dice.shuffled(free), strict=False):
        join(room, side, other)

    told: dict[frozenset[str], int] = {}
    facts = []
    while len(facts) < len(_ROOMS) - 1:
        room = dice.pick(_ROOMS)
        side = dice.pick(tuple(doors[room]))
        other = doors[room][side]
        if frozenset((room, other)) not in told:
            told[frozenset((room, other))] = len(facts)
            facts.append(f"The {room} is {OPPOSITE[side]} of the {other}.")

    def way(one: str, via: str, other: str) -> Asked:
        steps = (one, via), (via, other)
        sides = [next(s for s in doors[a] if doors[a][s] == b) for a, b in steps]
        text = f"How do you go from the {one} to the {other}?"
        return text, f"{sides[0][0]},{sides[1][0]}", tuple(told[frozenset(step)] for step in steps)

    every = [
        (one, via, other)
        for via, beside in doors.items()
        for one, other in itertools.permutations(beside.values(), 2)
    ]
    asked = (way(*rooms) for rooms in [(start, middle, goal), *dice.shuffled(every)])
    yield facts, asked
