"""The simulated stories of persons whose days have an order (qa14) or a motive (qa20)."""

from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.town import GETS, MOVES
from lm2_jax.data.babi.simulator.world import Asked, Dice, Point

TRAVELLERS = ("Bill", "Fred", "Julie", "Mary")
_PUBLIC = ("bedroom", "cinema", "kitchen", "office", "park", "school")
_TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
_FACTS_PER_POINT = 2
_WINDOW = 5

MOVED = ("Antoine", "Jason", "Sumit", "Yann")
_MOTIVES = {  # where one goes and what one gets there
    "bored": ("garden", "football"),
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "tired": ("bedroom", "pajamas"),
}

Visit = tuple[str, int]  # the person, and which of their places


def tell_times(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa14: each person goes to a place at each of four times, and is told of out of order.

    What happens between two times of asking is told in an order that leaves none of it where it
    was. A question is about a random one of the last five visits.
    """
    places: dict[str, list[str]] = {person: [] for person in persons}
    told_at: dict[Visit, int] = {}  # the index of the fact
    happened: list[Visit] = []
    while any(len(visited) < len(_TIMES) for visited in places.values()):
        for _ in range(_FACTS_PER_POINT):
            who = dice.pick([p for p in persons if len(places[p]) < len(_TIMES)])
            happened.append((who, len(places[who])))
            places[who].append(dice.pick([p for p in _PUBLIC if p not in places[who][-1:]]))
        recent = _later(places, happened[-_WINDOW:])
        if not recent:
            continue
        facts = []
        for who, number in _cycled(dice, happened[len(told_at) :]):
            told_at[who, number] = len(told_at)
            moved = f"{who} {dice.pick(MOVES)} to the {places[who][number]}"
            time = _TIMES[number]
            facts.append(dice.pick((f"{time.capitalize()} {moved}.", f"{moved} {time}.")))
        asked = dice.shuffled(recent) + dice.shuffled(_later(places, happened))
        yield facts, iter([_before(places, told_at, *visit) for visit in asked])


def _later(places: dict[str, list[str]], visits: Sequence[Visit]) -> list[Visit]:
    """The last visits of the places of these, without those that came first of all."""
    last = ((who, _last(places[who], places[who][number])) for who, number in visits)
    return [visit for visit in last if visit[1]]


def _last(places: list[str], place: str) -> int:
    return max(i for i, name in enumerate(places) if name == place)


def _before(
    places: dict[str, list[str]], told_at: dict[Visit, int], who: str, number: int
) -> Asked:
    support = told_at[who, number], told_at[who, number - 1]
    return f"Where was {who} before the {places[who][number]}?", places[who][number - 1], support


def _cycled(dice: Dice, items: Sequence) -> list:
    """A random order that is one cycle, so that no item stays where it was."""
    order = list(items)
    for i in range(len(order) - 1, 0, -1):
        j = int(dice.random() * i)
        order[i], order[j] = order[j], order[i]
    return order


def tell_motives(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa20: each person feels something, goes where that leads and gets what helps, if it is there.

    Each fact is asked about when it is told.
    """
    steps = dict.fromkeys(persons, 0)
    motive: dict[str, str] = {}
    felt_at: dict[str, int] = {}
    taken: set[str] = set()
    asked: dict[str, Asked] = {}  # by person and place or object: what may still be asked
    for index in range(3 * len(persons)):
        free = [p for p in persons if steps[p] < 2 or (steps[p] == 2 and motive[p] not in taken)]
        if not free:
            return
        who = dice.pick(free)
        name, step = who.lower(), steps[who]
        if step == 0:
            motive[who], felt_at[who] = dice.pick(tuple(_MOTIVES)), index
        place, thing = _MOTIVES[motive[who]]
        if step == 0:
            fact, answer = f"{who} is {motive[who]}.", place
            text = f"Where will {name} go?"
        elif step == 1:
            asked.pop(f"Where will {name} go?")
            fact, answer = f"{who} {dice.pick(MOVES)} to the {place}.", motive[who]
            text = f"Why did {name} go to the {place}?"
        else:
            taken.add(motive[who])
            fact, answer = dice.pick(GETS).format(who, thing) + " there.", motive[who]
            text = f"Why did {name} get the {thing}?"
        steps[who] += 1
        question = text, answer, (felt_at[who],)
        yield [fact], _and_others(question, asked, dice)
        asked[text] = question


def _and_others(question: Asked, others: dict[str, Asked], dice: Dice) -> Iterator[Asked]:
    yield question
    yield from dice.shuffled(list(others.values()))
