"""What follows from the facts of a movement story (qa1 to qa13)."""

from typing import NamedTuple

from lm2_jax.data.babi.simulator.world import PRONOUNS, Event


class Fact(NamedTuple):
    """An event, and the number of its fact in the story, from 0."""

    number: int
    event: Event


class Knowledge:
    """What a reader of the facts so far can infer.

    Attributes:
      events: all events.
      place_of: the last fact about the place of each person.
      last_handled: the last get, drop or give of each object.
      route: for each object, the moves of its holder since the last get.
      dropped_in: for each dropped object, the fact about the place of the person who dropped it;
        None if the place is unknown.
      last_gift: the last give of each object.
      last_gift_between: the index of the last give from one person to another.
      holder: the person who holds the object.
      handled_by: for each person and object, the indices of the facts about both, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.place_of: dict[str, Fact] = {}
        self.last_handled: dict[str, Fact] = {}
        self.route: dict[str, list[Fact]] = {}
        self.dropped_in: dict[str, Fact | None] = {}
        self.last_gift: dict[str, Fact] = {}
        self.last_gift_between: dict[tuple[str, str], int] = {}
        self.holder: dict[str, str] = {}
        self.handled_by: dict[str, dict[str, list[int]]] = {}

    def add(self, event: Event) -> None:
        fact = Fact(len(self.events), event)
        self.events.append(event)
        kind, who, what, other = event
        if kind in ("move", "be", "leave", "either"):
            self.place_of[who] = fact
            for thing, holder in self.holder.items():
                if holder == who:
                    self.route[thing].append(fact)
        elif kind in ("both", *PRONOUNS):
            self.place_of[who] = self.place_of[other or who] = fact
        elif kind in ("get", "drop", "give"):
            self.last_handled[what] = fact
            self._add_handling(who, what, fact.number)
            if kind == "get":
                self.holder[what] = who
                self.route[what] = []
            elif kind == "drop":
                del self.holder[what]
                self.dropped_in[what] = self.place_of.get(who)
            else:
                self.holder[what] = other
                self.last_gift[what] = fact
                self.last_gift_between[who, other] = fact.number
                self._add_handling(other, what, fact.number)

    def _add_handling(self, person: str, thing: str, index: int) -> None:
        self.handled_by.setdefault(person, {}).setdefault(thing, []).append(index)

    def held_by(self, person: str) -> list[str]:
        """Returns the objects of a person, in the order in which they first handled them."""
        return [thing for thing in self.handled_by.get(person, ())
                if self.holder.get(thing) == person]
