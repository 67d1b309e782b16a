"""The questions of the movement tasks (qa1 to qa13).

Each function yields different questions about a person, an object or a fact; none if the facts do
not give an answer. The first question is distributed as in the real files.
"""

from collections.abc import Callable, Iterator
from typing import Any

from lm2_jax.data.babi.simulator.knowledge import Knowledge
from lm2_jax.data.babi.simulator.sampling import QuestionAnswer
from lm2_jax.data.babi.simulator.world import OPPOSITE, PRONOUNS, World

_NUMBERS = ("none", "one", "two", "three")

Ask = Callable[[Knowledge, Any, World], Iterator[QuestionAnswer]]


def place_of_person(known: Knowledge, person: str, world: World) -> Iterator[QuestionAnswer]:
    index, event = known.place_of[person]
    support = (index - 1, index) if event.kind in PRONOUNS else (index,)
    yield f"Where is {person}?", event.what, support


def place_of_object(known: Knowledge, thing: str, world: World) -> Iterator[QuestionAnswer]:
    index, event = known.last_handled[thing]
    route = known.route[thing]
    if event.kind == "get":
        moved = route[-1] if route else None  # no question before the object has been moved
    else:
        moved = known.dropped_in[thing]
    if moved:
        yield f"Where is the {thing}?", moved.event.what, (index, moved.number)


def place_before(known: Knowledge, thing: str, world: World) -> Iterator[QuestionAnswer]:
    index = known.last_handled[thing].number
    route = known.route[thing]
    last_visits = {fact.event.what: i for i, fact in enumerate(route)}
    for i in world.choices.shuffled([i for i in last_visits.values() if i > 0]):
        before, after = route[i - 1], route[i]
        text = f"Where was the {thing} before the {after.event.what}?"
        yield text, before.event.what, (index, after.number, before.number)


def neighbour(known: Knowledge, index: int, world: World) -> Iterator[QuestionAnswer]:
    direction, place, of, _ = known.events[index]
    texts = (f"What is {direction} of the {of}?", f"What is the {of} {OPPOSITE[direction]} of?")
    for text in world.choices.shuffled(texts):
        yield text, place, (index,)


def gift(known: Knowledge, thing: str, world: World) -> Iterator[QuestionAnswer]:
    index, (_, giver, _, receiver) = known.last_gift[thing]
    what = (f"What did {giver} give to {receiver}?", thing)
    who = [
        (f"Who gave the {thing}?", giver),
        (f"Who gave the {thing} to {receiver}?", giver),
        (f"Who received the {thing}?", receiver),
        (f"Who did {giver} give the {thing} to?", receiver),
    ]
    # "What did ..." asks about the last gift between the two, which may be another object.
    is_last = known.last_gift_between[giver, receiver] == index
    forms = [what, what, *who] if is_last else who
    for text, answer in dict.fromkeys(world.choices.shuffled(forms)):
        yield text, answer, (index,)


def is_in(known: Knowledge, person: str, world: World) -> Iterator[QuestionAnswer]:
    index, event = known.place_of[person]
    if event.kind == "leave":
        yield f"Is {person} in the {event.what}?", "no", (index,)
        return
    true = event.what
    places = world.choices.shuffled([place for place in world.places if place != true])
    places.insert(world.choices.random() < 0.5, true)
    possible = (true, event.other) if event.kind == "either" else ()
    for place in places:
        answer = "maybe" if place in possible else "yes" if place == true else "no"
        yield f"Is {person} in the {place}?", answer, (index,)


def how_many_held(known: Knowledge, person: str, world: World) -> Iterator[QuestionAnswer]:
    support = sorted(i for indices in known.handled_by[person].values() for i in indices)
    count = _NUMBERS[len(known.held_by(person))]
    yield f"How many objects is {person} carrying?", count, tuple(support)


def what_is_held(known: Knowledge, person: str, world: World) -> Iterator[QuestionAnswer]:
    support = tuple(i for indices in known.handled_by[person].values() for i in indices)
    yield f"What is {person} carrying?", ",".join(known.held_by(person)) or "nothing", support
