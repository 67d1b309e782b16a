"""The simulated stories of persons who move, carry and give, and of the map of qa4 (qa1..qa13).

A task is a row of `TOWNS`: who and what is in its world, what happens there, in which words, and
what is asked. As in the real files, a question may follow every second fact; it is about a random
one of the last five, and there is none where no question about those has an answer. A fact about
two persons counts as two.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lm2_jax.data.babi.simulator import questions as ask
from lm2_jax.data.babi.simulator import world as acts
from lm2_jax.data.babi.simulator.world import Act, Asked, Dice, Event, Listener, Point, World

_FACTS_PER_POINT = 2
WINDOW = 5

_DROPS = [f"{{0}} {verb} the {{1}}" for verb in ("left", "discarded", "dropped", "put down")]
GETS = [f"{{0}} {verb} the {{1}}" for verb in ("got", "took", "grabbed", "picked up")]
MOVES = ("went", "journeyed", "travelled", "went back", "moved")
_NEXT = ("Then", "Afterwards", "After that", "Following that")


def _sometimes_there(sentences: list[str]) -> list[str]:
    """One time in five with "there" at the end."""
    return [f"{s}{end}" for s in sentences for end in (".", ".", ".", ".", " there.")]


_WORDS = {
    "move": [f"{{0}} {verb} to the {{1}}." for verb in MOVES],
    "both": [f"{{0}} and {{2}} {verb} to the {{1}}." for verb in MOVES],
    **{
        pronoun: [f"{then} {pronoun} {verb} to the {{1}}." for then in _NEXT for verb in MOVES]
        for pronoun in acts.PRONOUNS
    },
    "be": ["{0} is in the {1}."],
    "leave": ["{0} is not in the {1}.", "{0} is no longer in the {1}."],
    "either": ["{0} is either in the {1} or the {2}.", "{0} is either in the {2} or the {1}."],
    "get": [f"{s} there." for s in GETS],
    "drop": _sometimes_there(_DROPS),
    "give": [f"{{0}} {verb} the {{1}} to {{2}}." for verb in ("gave", "handed", "passed")],
    **{name: [f"The {{0}} is {name} of the {{1}}."] for name in acts.OPPOSITE},
}

Subject = str | int
Recent = collections.deque[Subject | None]  # of the last facts; None for what is not asked about


def _who(index: int, event: Event) -> tuple[Subject, ...]:
    return (event.who,)


def _both(index: int, event: Event) -> tuple[Subject, ...]:
    return event.who, event.other


def _what(index: int, event: Event) -> tuple[Subject, ...]:
    return (event.what,)


def _fact(index: int, event: Event) -> tuple[Subject, ...]:
    return (index,)


@dataclass(frozen=True)
class Town:
    """A task's world and what is asked about it."""

    happens: tuple[Act, ...]  # drawn evenly, again if it cannot be
    kinds: tuple[str, ...]  # the kinds of facts that are asked about
    about: Callable[[int, Event], tuple[Subject, ...]]  # what of such a fact is asked about
    ask: Callable[[Listener, Subject, World], Iterator[Asked]]
    persons: tuple[str, ...] = ("Mary", "John", "Daniel", "Sandra")
    places: tuple[str, ...] = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
    objects: tuple[str, ...] = ("apple", "football", "milk")
    words: dict[str, list[str]] = field(default_factory=lambda: _WORDS)
    actors: int = 1  # persons in a fact

    def tell(self, dice: Dice, persons: Sequence[str], turns: bool = False) -> Iterator[Point]:
        """Points without end; with `turns` nobody acts again while enough others have not."""
        world = World(dice, persons, self.places, self.objects)
        known = Listener()
        subjects: dict[Subject, None] = {}  # all that can be asked about, in the order of telling
        recent: Recent = collections.deque(maxlen=WINDOW)
        facts: list[str] = []
        acted: set[str] = set()
        while True:
            for _ in range(_FACTS_PER_POINT):
                if turns:
                    if len(persons) - len(acted) < self.actors:
                        acted.clear()
                    world.persons = [person for person in persons if person not in acted]
                event = self._happen(world)
                if turns:
                    acted.update((event.who, event.other)[:self.actors])
                told = self.subjects(len(known.told), event)
                subjects.update(dict.fromkeys(told))
                recent.extend(told or (None,))
                known.hear(event)
                facts.append(dice.pick(self.words[event.kind]).format(*event[1:]))
            world.persons = persons
            ways = self.questions(known, subjects, recent, world)
            first = next(ways, None)
            if first:
                yield facts, itertools.chain([first], ways)
                facts = []

    def subjects(self, index: int, event: Event) -> tuple[Subject, ...]:
        """What of a fact is asked about."""
        return self.about(index, event) if event.kind in self.kinds else ()

    def questions(
        self, known: Listener, subjects: Iterable[Subject], recent: Recent, world: World
    ) -> Iterator[Asked]:
        """What can be asked now, the first about one of the last facts."""
        left = [subject for subject in recent if subject is not None]
        while left:
            first = world.dice.pick(left)
            ways = self.ask(known, first, world)
            question = next(ways, None)
            if question:
                break
            left = [subject for subject in left if subject != first]
        else:
            return
        yield question
        others = world.dice.shuffled([s for s in subjects if s != first])
        queue = [self.ask(known, s, world) for s in others] + [ways]
        # One question about each subject before a second one about any.
        while queue:
            ways = queue.pop(0)
            question = next(ways, None)
            if question:
                yield question
                queue.append(ways)

    def _happen(self, world: World) -> Event:
        while True:
            event = world.dice.pick(self.happens)(world)
            if event:
                return event


_MOVING = (acts.move,)
_CARRYING = (acts.move, acts.get, acts.drop)
_GIVING = (*_CARRYING, acts.give)
_PUBLIC = ("kitchen", "office", "bedroom", "park", "school", "cinema")

TOWNS = {
    "qa1": Town(_MOVING, ("move",), _who, ask.where_person, objects=()),
    "qa2": Town(_CARRYING, ("get", "drop"), _what, ask.where_object),
    "qa3": Town(
        _CARRYING,
        ("get", "drop"),
        _what,
        ask.where_before,
        words=_WORDS | {"get": _sometimes_there(GETS)},
    ),
    "qa4": Town((acts.relate,), tuple(acts.OPPOSITE), _fact, ask.neighbour, persons=(), objects=()),
    "qa5": Town(_GIVING, ("give",), _what, ask.gift, persons=("Mary", "Fred", "Bill", "Jeff")),
    "qa6": Town(_CARRYING, ("move",), _who, ask.is_in),
    "qa7": Town(
        _GIVING,
        ("get", "drop", "give"),
        _who,
        ask.how_many,
        persons=("John", "Mary", "Sandra", "Daniel"),
    ),
    "qa8": Town(_CARRYING, ("get", "drop"), _who, ask.what_held),
    "qa9": Town(
        (acts.move, acts.move, acts.be, acts.leave),
        ("move", "be", "leave"),
        _who,
        ask.is_in,
        objects=(),
    ),
    "qa10": Town(
        (acts.move, acts.move, acts.be, acts.either),
        ("move", "be", "either"),
        _who,
        ask.is_in,
        persons=("Bill", "Fred", "Julie", "Mary"),
        places=_PUBLIC,
        objects=(),
    ),
    "qa11": Town((acts.move_twice,), ("move", "he", "she"), _who, ask.where_person, objects=()),
    "qa12": Town((acts.move_both,), ("both",), _both, ask.where_person, objects=(), actors=2),
    "qa13": Town((acts.move_both_twice,), ("both", "they"), _both, ask.where_person, objects=(),
                 actors=2),
}
