"""The world of persons who move, carry, give and feel (bAbI qa1 to 3, 5 to 14 and 20)."""

from collections import defaultdict
from itertools import pairwise

_TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
_WOMEN = ("Mary", "Sandra")  # "she" in qa11
_COUNTS = ("none", "one", "two", "three")
_MOOD_PLACE = {"tired": "bedroom", "hungry": "kitchen", "thirsty": "kitchen", "bored": "garden"}
_MOOD_THING = {"tired": "pajamas", "hungry": "apple", "thirsty": "milk", "bored": "football"}


class People:
    """Persons, their places and what they hold.

    A contradiction raises ValueError, a question that the facts do not answer LookupError.

    Attributes:
      places: the possible places of each person.
      absent: a place where the person is not; a person is in one of these two tables.
      held: for each person and object, whether the person still holds it. An object keeps its
        first position: answers list objects in the order in which they were first taken.
      trails: the places of each object in order, without repetitions.
      gifts: all gifts in order.
      visits: for each person, the place at each time of `_TIMES`.
      moods: the mood of each person.
      subject: who moved last, to whom a pronoun refers.
    """

    def __init__(self):
        self.places: dict[str, tuple[str, ...]] = {}
        self.absent: dict[str, str] = {}
        self.held: dict[str, dict[str, bool]] = defaultdict(dict)
        self.trails: dict[str, list[str]] = defaultdict(list)
        self.gifts: list[dict[str, str]] = []
        self.visits: dict[str, dict[int, str]] = defaultdict(dict)
        self.moods: dict[str, str] = {}
        self.subject: tuple[str, ...] = ()

    def _put(self, person: str, *places: str) -> None:
        self.absent.pop(person, None)
        self.places[person] = places

    def _carried(self, person: str) -> list[str]:
        return [thing for thing, held in self.held[person].items() if held]

    def _trace(self, person: str, thing: str) -> None:
        """Adds the place of `person`, if known, to the trail of `thing`."""
        trail = self.trails[thing]
        for place in self.places.get(person, ()):
            if trail[-1:] != [place]:
                trail.append(place)

    # Facts.

    def move(self, person: str, place: str) -> None:
        if self.places.get(person) == (place,):
            raise ValueError(f"{person} goes to the {place}, but is there already")
        self.subject = (person,)
        self._put(person, place)
        for thing in self._carried(person):
            self._trace(person, thing)

    def move_both(self, first: str, second: str, place: str) -> None:
        self.move(first, place)
        self.move(second, place)
        self.subject = (first, second)

    def move_again(self, pronoun: str, place: str) -> None:
        subject = self.subject
        if pronoun != _pronoun(subject):
            raise ValueError(f"{pronoun!r} cannot be {' and '.join(subject) or 'nobody'}")
        for person in subject:
            self.move(person, place)
        self.subject = subject

    def move_at(self, person: str, place: str, time: str) -> None:
        visits, when = self.visits[person], _TIMES.index(time.lower())
        if when in visits:
            raise ValueError(f"{person} went to the {visits[when]} at that time")
        if place in (visits.get(when - 1), visits.get(when + 1)):
            raise ValueError(f"{person} is in the {place} just before or after")
        visits[when] = place

    def is_not(self, person: str, place: str) -> None:
        self.places.pop(person, None)
        self.absent[person] = place

    def is_either(self, person: str, place: str, other: str) -> None:
        self._put(person, place, other)

    def take(self, person: str, thing: str) -> None:
        if any(things.get(thing) for things in self.held.values()):
            raise ValueError(f"{person} takes the {thing}, which somebody holds")
        here, there = self.places.get(person), self.trails[thing][-1:]
        if here and there and here[0] != there[0]:
            raise ValueError(f"{person}, in the {here[0]}, takes the {thing} in the {there[0]}")
        self.held[person][thing] = True
        self._trace(person, thing)

    def drop(self, person: str, thing: str) -> None:
        if not self.held[person].get(thing):
            raise ValueError(f"{person} lets go of the {thing} without holding it")
        self.held[person][thing] = False

    def give(self, giver: str, thing: str, taker: str) -> None:
        here, there = self.places.get(giver), self.places.get(taker)
        if here and there and here != there:
            raise ValueError(f"{giver}, in the {here[0]}, gives to {taker} in the {there[0]}")
        self.drop(giver, thing)
        self.take(taker, thing)
        self.gifts.append({"giver": giver, "thing": thing, "taker": taker})

    def feel(self, person: str, mood: str) -> None:
        if person in self.moods:
            raise ValueError(f"{person} is {self.moods[person]}")
        self.moods[person] = mood

    # Questions.

    def where_person(self, person: str) -> str:
        return self.places[person][0]

    def where_thing(self, thing: str) -> str:
        return self.trails[thing][-1]

    def where_before(self, thing: str, place: str) -> str:
        return [before for before, here in pairwise(self.trails[thing]) if here == place][-1]

    def where_earlier(self, person: str, place: str) -> str:
        """Returns the place at the time before the person's last visit to `place`."""
        visits = self.visits[person]
        last = [when for when in sorted(visits) if visits[when] == place][-1]
        return visits[last - 1]

    def is_in(self, person: str, place: str) -> str:
        if person in self.absent:
            if self.absent[person] == place:
                return "no"
            raise LookupError(person)
        places = self.places[person]
        if place not in places:
            return "no"
        return "yes" if len(places) == 1 else "maybe"

    def how_many(self, person: str) -> str:
        return _COUNTS[len(self._carried(person))]

    def what_carried(self, person: str) -> str:
        return ",".join(self._carried(person)) or "nothing"

    def _last_gift(self, **known: str) -> dict[str, str]:
        return [gift for gift in self.gifts if known.items() <= gift.items()][-1]

    def what_given(self, giver: str, taker: str) -> str:
        return self._last_gift(giver=giver, taker=taker)["thing"]

    def who_received(self, **known: str) -> str:
        return self._last_gift(**known)["taker"]

    def who_gave(self, **known: str) -> str:
        return self._last_gift(**known)["giver"]

    def where_will(self, person: str) -> str:
        name = person.capitalize()
        if name in self.places:
            raise LookupError(f"{name} went already")
        return _MOOD_PLACE[self.moods[name]]

    def why_go(self, person: str, place: str) -> str:
        name = person.capitalize()
        mood = self.moods[name]
        if self.places[name] != (place,) or _MOOD_PLACE[mood] != place:
            raise LookupError(f"{name} is {mood}")
        return mood

    def why_get(self, person: str, thing: str) -> str:
        name = person.capitalize()
        mood = self.moods[name]
        if not self.held[name].get(thing) or _MOOD_THING[mood] != thing:
            raise LookupError(f"{name} is {mood}")
        return mood


def _pronoun(persons: tuple[str, ...]) -> str:
    """Returns the pronoun for `persons`; "" for nobody."""
    if len(persons) != 1:
        return "they" if persons else ""
    return "she" if persons[0] in _WOMEN else "he"
