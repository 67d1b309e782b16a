"""Persons who move, get, drop and give objects, and the map of qa4 (qa1 to qa13).

As in the real files, questions can follow every second fact. The first question is about one of
the last five facts, chosen at random; there is none if no question about them has an answer. A
fact about two persons counts as two facts.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lm2_jax.data.babi.simulator import questions, world
from lm2_jax.data.babi.simulator.knowledge import Knowledge
from lm2_jax.data.babi.simulator.questions import Ask
from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer
from lm2_jax.data.babi.simulator.world import Action, Event, World

_FACTS_PER_POINT = 2
RECENT_FACTS = 5

MOVES = ("went", "journeyed", "travelled", "went back", "moved")
GETS = [f"{{0}} {verb} the {{1}}" for verb in ("got", "took", "grabbed", "picked up")]
_DROPS = [f"{{0}} {verb} the {{1}}" for verb in ("left", "discarded", "dropped", "put down")]
_THEN = ("Then", "Afterwards", "After that", "Following that")


def _sometimes_there(sentences: list[str]) -> list[str]:
    """Adds "there" to one sentence in five."""
    return [f"{s}{end}" for s in sentences for end in (".", ".", ".", ".", " there.")]


SENTENCES = {  # of each kind of event; the fields are who, what, other
    "move": [f"{{0}} {verb} to the {{1}}." for verb in MOVES],
    "both": [f"{{0}} and {{2}} {verb} to the {{1}}." for verb in MOVES],
    **{pronoun: [f"{then} {pronoun} {verb} to the {{1}}." for then in _THEN for verb in MOVES]
       for pronoun in world.PRONOUNS},
    "be": ["{0} is in the {1}."],
    "leave": ["{0} is not in the {1}.", "{0} is no longer in the {1}."],
    "either": ["{0} is either in the {1} or the {2}.", "{0} is either in the {2} or the {1}."],
    "get": [f"{s} there." for s in GETS],
    "drop": _sometimes_there(_DROPS),
    "give": [f"{{0}} {verb} the {{1}} to {{2}}." for verb in ("gave", "handed", "passed")],
    **{direction: [f"The {{0}} is {direction} of the {{1}}."] for direction in world.OPPOSITE},
}

Subject = str | int
"""What a question is about: a person, an object, or the index of a fact."""
Recent = collections.deque[Subject | None]
"""The subjects of the last facts; None for a fact that no question is about."""


def _who(index: int, event: Event) -> tuple[Subject, ...]:
    return (event.who,)


def _both(index: int, event: Event) -> tuple[Subject, ...]:
    return event.who, event.other


def _what(index: int, event: Event) -> tuple[Subject, ...]:
    return (event.what,)


def _fact(index: int, event: Event) -> tuple[Subject, ...]:
    return (index,)


@dataclass(frozen=True)
class MovementTask:
    """The world of a task, and its questions.

    Attributes:
      actions: drawn with equal probability, and again if the drawn one is not possible.
      asked_kinds: the kinds of events that questions are about.
      subjects_of: returns the subjects of a fact, given its index and event.
      ask: yields the questions about a subject.
      persons, places, objects: what the world has.
      sentences: the sentences of each kind of event.
      persons_per_fact: 2 if persons move in pairs.
      min_persons: the fewest persons with whom the task works.
      points: question points of a story of the real file.
    """

    actions: tuple[Action, ...]
    asked_kinds: tuple[str, ...]
    subjects_of: Callable[[int, Event], tuple[Subject, ...]]
    ask: Ask
    persons: tuple[str, ...] = ("Mary", "John", "Daniel", "Sandra")
    places: tuple[str, ...] = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
    objects: tuple[str, ...] = ("apple", "football", "milk")
    sentences: dict[str, list[str]] = field(default_factory=lambda: SENTENCES)
    persons_per_fact: int = 1
    min_persons: int = 1
    points: int = 5

    def generate(self, choices: Choices, persons: Sequence[str], turns: bool = False
                 ) -> Iterator[Point]:
        """Yields question points without end.

        Args:
          turns: nobody acts again before all others have, except that giving is always possible.
        """
        world = World(choices, persons, self.places, self.objects)
        known = Knowledge()
        subjects: dict[Subject, None] = {}  # an ordered set of all subjects so far
        recent: Recent = collections.deque(maxlen=RECENT_FACTS)
        facts: list[str] = []
        acted: set[str] = set()
        while True:
            for _ in range(_FACTS_PER_POINT):
                if turns:
                    if len(persons) - len(acted) < self.persons_per_fact:
                        acted.clear()
                    world.persons = [person for person in persons if person not in acted]
                event = self._next_event(world)
                if turns:
                    acted.update((event.who, event.other)[:self.persons_per_fact])
                new = self.subjects(len(known.events), event)
                subjects.update(dict.fromkeys(new))
                recent.extend(new or (None,))
                known.add(event)
                facts.append(choices.pick(self.sentences[event.kind]).format(*event[1:]))
            world.persons = persons
            possible = self.questions(known, subjects, recent, world)
            first = next(possible, None)
            if first:
                yield facts, itertools.chain([first], possible)
                facts = []

    def subjects(self, index: int, event: Event) -> tuple[Subject, ...]:
        """Returns the subjects of a fact, () if no question is about it."""
        return self.subjects_of(index, event) if event.kind in self.asked_kinds else ()

    def questions(self, known: Knowledge, subjects: Iterable[Subject], recent: Recent,
                  world: World) -> Iterator[QuestionAnswer]:
        """Yields the possible questions, the first of them about one of the last facts."""
        candidates = [subject for subject in recent if subject is not None]
        question = None
        while not question:
            if not candidates:
                return
            first = world.choices.pick(candidates)
            more = self.ask(known, first, world)
            question = next(more, None)
            candidates = [subject for subject in candidates if subject != first]
        yield question
        others = world.choices.shuffled([s for s in subjects if s != first])
        queue = [self.ask(known, subject, world) for subject in others] + [more]
        # One question about each subject comes before a second one about any.
        while queue:
            more = queue.pop(0)
            question = next(more, None)
            if question:
                yield question
                queue.append(more)

    def _next_event(self, world: World) -> Event:
        event = None
        while not event:
            event = world.choices.pick(self.actions)(world)
        return event


_MOVING = (world.move,)
_CARRYING = (world.move, world.get, world.drop)
_GIVING = (*_CARRYING, world.give)

MOVEMENT_TASKS = {
    "qa1": MovementTask(_MOVING, ("move",), _who, questions.place_of_person, objects=()),
    "qa2": MovementTask(_CARRYING, ("get", "drop"), _what, questions.place_of_object),
    "qa3": MovementTask(_CARRYING, ("get", "drop"), _what, questions.place_before,
                        sentences=SENTENCES | {"get": _sometimes_there(GETS)}),
    "qa4": MovementTask((world.relate,), tuple(world.OPPOSITE), _fact, questions.neighbour,
                        persons=(), objects=(), points=1),
    "qa5": MovementTask(_GIVING, ("give",), _what, questions.gift,
                        persons=("Mary", "Fred", "Bill", "Jeff"), min_persons=2),
    "qa6": MovementTask(_CARRYING, ("move",), _who, questions.is_in),
    "qa7": MovementTask(_GIVING, ("get", "drop", "give"), _who, questions.how_many_held,
                        persons=("John", "Mary", "Sandra", "Daniel")),
    "qa8": MovementTask(_CARRYING, ("get", "drop"), _who, questions.what_is_held),
    "qa9": MovementTask((world.move, world.move, world.be, world.leave), ("move", "be", "leave"),
                        _who, questions.is_in, objects=()),
    "qa10": MovementTask((world.move, world.move, world.be, world.either),
                         ("move", "be", "either"), _who, questions.is_in,
                         persons=("Bill", "Fred", "Julie", "Mary"),
                         places=("kitchen", "office", "bedroom", "park", "school", "cinema"),
                         objects=()),
    "qa11": MovementTask((world.move_twice,), ("move", "he", "she"), _who,
                         questions.place_of_person, objects=()),
    "qa12": MovementTask((world.move_both,), ("both",), _both, questions.place_of_person,
                         objects=(), persons_per_fact=2, min_persons=2),
    "qa13": MovementTask((world.move_both_twice,), ("both", "they"), _both,
                         questions.place_of_person, objects=(), persons_per_fact=2,
                         min_persons=2),
}
