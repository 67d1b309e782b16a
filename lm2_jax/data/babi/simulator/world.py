"""The world of the movement tasks (qa1 to qa13), and the actions that change it.

An action changes the world and returns the event, or returns None if it is not possible.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lm2_jax.data.babi.simulator.sampling import Choices

NORTH, SOUTH, EAST, WEST = "north", "south", "east", "west"
STEPS = {NORTH: (0, 1), SOUTH: (0, -1), EAST: (1, 0), WEST: (-1, 0)}
OPPOSITE = {NORTH: SOUTH, SOUTH: NORTH, EAST: WEST, WEST: EAST}

PRONOUN = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}
PRONOUNS = ("he", "she", "they")


class Event(NamedTuple):
    """What a fact says.

    Attributes:
      kind: a key of movement.SENTENCES, such as "move" or "get".
      who: the person who acts; in qa4 a place.
      what: an object or a place; the true place if the kind is "either".
      other: the receiver if the kind is "give", the second place if it is "either", the second
        person if two persons move.
    """

    kind: str
    who: str
    what: str
    other: str = ""


class World:
    """Persons and objects, at first in random places.

    Attributes:
      place_of: the place of each person.
      lying_in: the place of each object that nobody holds.
      holder: the person who holds the object, for the others.
      last_movers: the persons to whom a pronoun in the next sentence refers, if any.
      map: the map of qa4, which has no persons.
    """

    def __init__(self, choices: Choices, persons: Sequence[str], places: Sequence[str],
                 objects: Sequence[str]):
        self.choices = choices
        self.persons = persons
        self.places = places
        self.objects = objects
        self.place_of = {person: choices.pick(places) for person in persons}
        self.lying_in = {thing: choices.pick(places) for thing in objects}
        self.holder: dict[str, str] = {}
        self.last_movers: tuple[str, ...] = ()
        self.map = Map(choices, places) if not persons else None


class Map:
    """Six places on a grid of 3 x 2 or 2 x 3.

    Attributes:
      relations: all facts (place, direction, neighbour): the place is in that direction of its
        neighbour.
      opening: the two facts with which the story begins, in reverse order.
    """

    def __init__(self, choices: Choices, places: Sequence[str]):
        long, short = choices.shuffled([(1, 0), (0, 1)])
        cells = [(i * long[0] + j * short[0], i * long[1] + j * short[1])
                 for j in range(2) for i in range(3)]
        at = dict(zip(cells, choices.shuffled(places), strict=True))
        self.relations = [(at[x + dx, y + dy], direction, place)
                          for (x, y), place in at.items()
                          for direction, (dx, dy) in STEPS.items() if (x + dx, y + dy) in at]
        middle = at[cells[1]]
        along = (EAST, WEST) if long == (1, 0) else (NORTH, SOUTH)
        ends = [fact for fact in self.relations if fact[1] in along and fact[2] == middle]
        # A story begins with the two ends of a row, which two facts in three relate to its middle.
        self.opening = [fact if choices.random() < 2 / 3 else (fact[2], OPPOSITE[fact[1]], fact[0])
                        for fact in choices.shuffled(ends)]


def relate(world: World) -> Event | None:
    """States how two places of the map lie to each other (qa4)."""
    assert world.map is not None
    opening = world.map.opening
    place, direction, of = opening.pop() if opening else world.choices.pick(world.map.relations)
    return Event(direction, place, of)


def _move_person(world: World) -> tuple[str, str, str] | None:
    """Returns a random person, their old and new place; None if they are there already."""
    who, place = world.choices.pick(world.persons), world.choices.pick(world.places)
    old_place = world.place_of[who]
    if old_place == place:
        return None
    world.place_of[who] = place
    return who, old_place, place


def _move_together(world: World, persons: tuple[str, ...]) -> str | None:
    """Moves persons to a random place and returns it; None if one of them is there already."""
    place = world.choices.pick(world.places)
    if any(world.place_of[person] == place for person in persons):
        return None
    world.place_of.update(dict.fromkeys(persons, place))
    return place


def move(world: World) -> Event | None:
    moved = _move_person(world)
    return moved and Event("move", moved[0], moved[2])


def move_both(world: World) -> Event | None:
    first, second = world.choices.shuffled(world.persons)[:2]
    place = _move_together(world, (first, second))
    return Event("both", first, place, second) if place else None


def move_twice(world: World) -> Event | None:
    return _move_twice(world, move)


def move_both_twice(world: World) -> Event | None:
    return _move_twice(world, move_both)


def _move_twice(world: World, first_move: "Action") -> Event | None:
    """Alternates between a first move and a second one by the same persons, named by a pronoun."""
    if not world.last_movers:
        event = first_move(world)
        world.last_movers = (event.who, event.other) if event else ()
        return event
    who, other = world.last_movers
    place = _move_together(world, (who, other) if other else (who,))
    if not place:
        return None
    world.last_movers = ()
    return Event("they" if other else PRONOUN[who], who, place, other)


def be(world: World) -> Event | None:
    moved = _move_person(world)
    return moved and Event("be", moved[0], moved[2])


def leave(world: World) -> Event | None:
    moved = _move_person(world)
    return moved and Event("leave", moved[0], moved[1])


def either(world: World) -> Event | None:
    moved = _move_person(world)
    # As in the real files, the second place can be the true one too.
    return moved and Event("either", moved[0], moved[2], world.choices.pick(world.places))


def get(world: World) -> Event | None:
    who = world.choices.pick(world.persons)
    here = [thing for thing, place in world.lying_in.items() if place == world.place_of[who]]
    if not here:
        return None
    what = world.choices.pick(here)
    del world.lying_in[what]
    world.holder[what] = who
    return Event("get", who, what)


def drop(world: World) -> Event | None:
    who = world.choices.pick(world.persons)
    held = [thing for thing in world.objects if world.holder.get(thing) == who]
    if not held:
        return None
    what = world.choices.pick(held)
    del world.holder[what]
    world.lying_in[what] = world.place_of[who]
    return Event("drop", who, what)


def give(world: World) -> Event | None:
    # As in the real files, nothing is drawn: the first object that can be given is given to the
    # first person who can receive it.
    for what in world.objects:
        who = world.holder.get(what)
        if who is None:
            continue
        for receiver in world.persons:
            if receiver != who and world.place_of[receiver] == world.place_of[who]:
                world.holder[what] = receiver
                return Event("give", who, what, receiver)
    return None


Action = Callable[[World], Event | None]
