"""The questions of the simulated stories.

Each function yields what can be asked about a person, an object or a fact: (question, answer,
support) with different questions, and nothing if the listener cannot know an answer. The first is
distributed as in the real files.
"""

from collections.abc import Iterator

from lm2_jax.data.babi.simulator.world import OPPOSITE, PRONOUNS, Asked, Listener, World

_NUMBERS = ("none", "one", "two", "three")


def where_person(known: Listener, person: str, world: World) -> Iterator[Asked]:
    index, event = known.where[person]
    support = (index - 1, index) if event.kind in PRONOUNS else (index,)
    yield f"Where is {person}?", event.what, support


def where_object(known: Listener, thing: str, world: World) -> Iterator[Asked]:
    index, event = known.handled[thing]
    route = known.route[thing]
    if event.kind == "get":
        came = route[-1] if route else None  # not asked before it has been carried somewhere
    else:
        came = known.dropped[thing]
    if came:
        yield f"Where is the {thing}?", came.event.what, (index, came.index)


def where_before(known: Listener, thing: str, world: World) -> Iterator[Asked]:
    index = known.handled[thing].index
    route = known.route[thing]
    last = {told.event.what: i for i, told in enumerate(route)}
    for i in world.dice.shuffled([i for i in last.values() if i > 0]):
        before, after = route[i - 1], route[i]
        text = f"Where was the {thing} before the {after.event.what}?"
        yield text, before.event.what, (index, after.index, before.index)


def neighbour(known: Listener, index: int, world: World) -> Iterator[Asked]:
    direction, place, of, _ = known.told[index]
    forms = (
        f"What is {direction} of the {of}?",
        f"What is the {of} {OPPOSITE[direction]} of?",
    )
    for text in world.dice.shuffled(forms):
        yield text, place, (index,)


def gift(known: Listener, thing: str, world: World) -> Iterator[Asked]:
    index, (_, giver, _, receiver) = known.given[thing]
    what = (f"What did {giver} give to {receiver}?", thing)
    who = [
        (f"Who gave the {thing}?", giver),
        (f"Who gave the {thing} to {receiver}?", giver),
        (f"Who received the {thing}?", receiver),
        (f"Who did {giver} give the {thing} to?", receiver),
    ]
    unclear = known.between[giver, receiver] != index  # they passed on something else since
    forms = who if unclear else [what, what, *who]
    for text, answer in dict.fromkeys(world.dice.shuffled(forms)):
        yield text, answer, (index,)


def is_in(known: Listener, person: str, world: World) -> Iterator[Asked]:
    index, event = known.where[person]
    if event.kind == "leave":
        yield f"Is {person} in the {event.what}?", "no", (index,)
        return
    true = event.what
    places = world.dice.shuffled([place for place in world.places if place != true])
    places.insert(world.dice.random() < 0.5, true)
    maybe = (true, event.other) if event.kind == "either" else ()
    for place in places:
        answer = "maybe" if place in maybe else "yes" if place == true else "no"
        yield f"Is {person} in the {place}?", answer, (index,)


def how_many(known: Listener, person: str, world: World) -> Iterator[Asked]:
    support = sorted(i for facts in known.touched[person].values() for i in facts)
    count = _NUMBERS[len(known.holds(person))]
    yield f"How many objects is {person} carrying?", count, tuple(support)


def what_held(known: Listener, person: str, world: World) -> Iterator[Asked]:
    support = tuple(i for facts in known.touched[person].values() for i in facts)
    yield f"What is {person} carrying?", ",".join(known.holds(person)) or "nothing", support
