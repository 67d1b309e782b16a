"""The world behind the simulated stories: what happens in it, and what its listener knows."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

NORTH, SOUTH, EAST, WEST = "north", "south", "east", "west"
STEPS = {NORTH: (0, 1), SOUTH: (0, -1), EAST: (1, 0), WEST: (-1, 0)}
OPPOSITE = {NORTH: SOUTH, SOUTH: NORTH, EAST: WEST, WEST: EAST}

PRONOUN = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}
PRONOUNS = ("he", "she", "they")

Asked = tuple[str, str, tuple[int, ...]]  # question, answer, support
Point = tuple[list[str], Iterator[Asked]]  # facts, and what can be asked when they are told


class Event(NamedTuple):
    """Something that is told: `kind` names the act, the rest who and what had part in it."""

    kind: str
    who: str
    what: str  # an object or a place; in "either" the true place
    other: str = ""  # the receiver of "give", the second place of "either", the second person


class Dice:
    """Choices that depend on `key` alone: not on the process, nor on the version of Python."""

    def __init__(self, *key):
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        # Of the methods of Random, only random() is promised to stay as it is.
        self.random = draw = random.Random(int.from_bytes(digest, "big")).random
        # Not a method: a story picks hundreds of times.
        self.pick: Callable[[Sequence], object] = lambda items: items[int(draw() * len(items))]

    def shuffled(self, items: Sequence) -> list:
        order = [(self.random(), i) for i in range(len(items))]
        return [items[i] for _, i in sorted(order)]


class World:
    """Persons and objects in places. All start at random, and unknown to the listener."""

    def __init__(
        self, dice: Dice, persons: Sequence[str], places: Sequence[str], objects: Sequence[str]
    ):
        self.dice = dice
        self.persons = persons
        self.places = places
        self.objects = objects
        self.place = {person: dice.pick(places) for person in persons}
        self.lies = {thing: dice.pick(places) for thing in objects}  # of those nobody holds
        self.holder: dict[str, str] = {}
        self.moving: tuple[str, ...] = ()  # who moves on, in stories of two moves one after another
        self.atlas = Atlas(dice, places) if not persons else None

    def holds(self, person: str) -> list[str]:
        return [thing for thing in self.objects if self.holder.get(thing) == person]


class Atlas:
    """Six places on a grid of 3 x 2: which is next to which."""

    def __init__(self, dice: Dice, places: Sequence[str]):
        long, short = dice.shuffled([(1, 0), (0, 1)])
        cells = [
            (i * long[0] + j * short[0], i * long[1] + j * short[1])
            for j in range(2)
            for i in range(3)
        ]
        at = dict(zip(cells, dice.shuffled(places), strict=True))
        self.relations = [  # all facts (place, direction, place)
            (at[x + dx, y + dy], name, place)
            for (x, y), place in at.items()
            for name, (dx, dy) in STEPS.items()
            if (x + dx, y + dy) in at
        ]
        middle = at[cells[1]]
        first = [fact for fact in self.relations if fact[1] in _along(long) and fact[2] == middle]
        # A story begins with the two ends of a row; two times in three as seen from its middle.
        self.opening = [
            fact if dice.random() < 2 / 3 else (fact[2], OPPOSITE[fact[1]], fact[0])
            for fact in dice.shuffled(first)
        ]


def _along(axis: tuple[int, int]) -> tuple[str, str]:
    return (EAST, WEST) if axis == (1, 0) else (NORTH, SOUTH)


def relate(world: World) -> Event | None:
    opening = world.atlas.opening
    place, direction, of = opening.pop() if opening else world.dice.pick(world.atlas.relations)
    return Event(direction, place, of)


def _go(world: World) -> tuple[str, str, str] | None:
    """Moves a person; returns who, from where and where to, None if they are there already."""
    who, place = world.dice.pick(world.persons), world.dice.pick(world.places)
    left = world.place[who]
    if left == place:
        return None
    world.place[who] = place
    return who, left, place


def move(world: World) -> Event | None:
    gone = _go(world)
    return gone and Event("move", gone[0], gone[2])


def move_both(world: World) -> Event | None:
    first, second = world.dice.shuffled(world.persons)[:2]
    place = _go_on(world, (first, second))
    return place and Event("both", first, place, second)


def _go_on(world: World, persons: tuple[str, ...]) -> str | None:
    """Moves persons to one place; returns it, None if one of them is there already."""
    place = world.dice.pick(world.places)
    if any(world.place[person] == place for person in persons):
        return None
    world.place.update(dict.fromkeys(persons, place))
    return place


def move_twice(world: World) -> Event | None:
    return _twice(world, move)


def move_both_twice(world: World) -> Event | None:
    return _twice(world, move_both)


def _twice(world: World, first: "Act") -> Event | None:
    """A move, or the second one of those who have just moved, told with a pronoun."""
    if not world.moving:
        event = first(world)
        world.moving = (event.who, event.other) if event else ()
        return event
    who, other = world.moving
    place = _go_on(world, (who, other) if other else (who,))
    if not place:
        return None
    world.moving = ()
    return Event("they" if other else PRONOUN[who], who, place, other)


def be(world: World) -> Event | None:
    gone = _go(world)
    return gone and Event("be", gone[0], gone[2])


def leave(world: World) -> Event | None:
    gone = _go(world)
    return gone and Event("leave", gone[0], gone[1])


def either(world: World) -> Event | None:
    gone = _go(world)
    # The second place may be any, the true one too: so it is in the real files.
    return gone and Event("either", gone[0], gone[2], world.dice.pick(world.places))


def get(world: World) -> Event | None:
    who = world.dice.pick(world.persons)
    here = [thing for thing, place in world.lies.items() if place == world.place[who]]
    if not here:
        return None
    what = world.dice.pick(here)
    del world.lies[what]
    world.holder[what] = who
    return Event("get", who, what)


def drop(world: World) -> Event | None:
    who = world.dice.pick(world.persons)
    held = world.holds(who)
    if not held:
        return None
    what = world.dice.pick(held)
    del world.holder[what]
    world.lies[what] = world.place[who]
    return Event("drop", who, what)


def give(world: World) -> Event | None:
    # As in the real files: no person is drawn beforehand, it is the first object, in the order of
    # the task, that can be passed on, to the first person who can receive it.
    for what in world.objects:
        who = world.holder.get(what)
        for receiver in world.persons if who else ():
            if receiver != who and world.place[receiver] == world.place[who]:
                world.holder[what] = receiver
                return Event("give", who, what, receiver)
    return None


Act = Callable[[World], Event | None]  # changes the world, or cannot and returns None


class Told(NamedTuple):
    """An event and the index of its fact in the story."""

    index: int
    event: Event


class Listener:
    """What follows from the facts told so far."""

    def __init__(self):
        self.told: list[Event] = []
        self.where: dict[str, Told] = {}  # person -> last fact on their place
        self.handled: dict[str, Told] = {}  # object -> last get, drop or give
        self.route: dict[str, list[Told]] = {}  # object -> moves of the one who got it last
        self.dropped: dict[str, Told | None] = {}  # object -> how the place of its drop is known
        self.given: dict[str, Told] = {}  # object -> last give
        self.between: dict[tuple[str, str], int] = {}  # giver, receiver -> index of last give
        self.holder: dict[str, str] = {}
        self.touched: dict[str, dict[str, list[int]]] = {}  # person -> object -> facts

    def hear(self, event: Event) -> None:
        told = Told(len(self.told), event)
        self.told.append(event)
        kind, who, what, other = event
        if kind in ("move", "be", "leave", "either"):
            self.where[who] = told
            for thing, holder in self.holder.items():
                if holder == who:
                    self.route[thing].append(told)
        elif kind in ("both", *PRONOUNS):
            self.where[who] = self.where[other or who] = told
        elif kind in ("get", "drop", "give"):
            self.handled[what] = told
            self._touch(who, what, told.index)
            if kind == "get":
                self.holder[what] = who
                self.route[what] = []
            elif kind == "drop":
                del self.holder[what]
                self.dropped[what] = self.where.get(who)
            else:
                self.holder[what] = other
                self.given[what] = told
                self.between[who, other] = told.index
                self._touch(other, what, told.index)

    def _touch(self, person: str, thing: str, index: int) -> None:
        self.touched.setdefault(person, {}).setdefault(thing, []).append(index)

    def holds(self, person: str) -> list[str]:
        """The objects of a person, in the order in which they first had them."""
        touched = self.touched.get(person, ())
        return [thing for thing in touched if self.holder.get(thing) == person]
