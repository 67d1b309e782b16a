"""Persons who follow the time of the day (qa14) or a motivation (qa20)."""

from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.movement import GETS, MOVES
from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer

TIME_PERSONS = ("Bill", "Fred", "Julie", "Mary")
_PLACES = ("bedroom", "cinema", "kitchen", "office", "park", "school")
_TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
_FACTS_PER_POINT = 2
_RECENT_FACTS = 5

MOTIVATION_PERSONS = ("Antoine", "Jason", "Sumit", "Yann")
_MOTIVATIONS = {  # feeling -> where the person goes, and what they get there
    "bored": ("garden", "football"),
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "tired": ("bedroom", "pajamas"),
}

Visit = tuple[str, int]
"""A person, and the number of the visit among theirs."""


def time_reasoning(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """qa14: each person visits a place at each of four times; the facts are not in that order.

    The facts about new visits are permuted so that none keeps its position. The first question is
    about one of the last five visits, chosen at random.
    """
    places: dict[str, list[str]] = {person: [] for person in persons}
    fact_of: dict[Visit, int] = {}  # visit -> index of its fact
    visits: list[Visit] = []
    while any(len(visited) < len(_TIMES) for visited in places.values()):
        for _ in range(_FACTS_PER_POINT):
            who = choices.pick([p for p in persons if len(places[p]) < len(_TIMES)])
            visits.append((who, len(places[who])))
            places[who].append(choices.pick([p for p in _PLACES if p not in places[who][-1:]]))
        recent = _last_visits(places, visits[-_RECENT_FACTS:])
        if not recent:
            continue
        facts = []
        for who, number in _cyclic_permutation(choices, visits[len(fact_of):]):
            fact_of[who, number] = len(fact_of)
            moved = f"{who} {choices.pick(MOVES)} to the {places[who][number]}"
            time = _TIMES[number]
            facts.append(choices.pick((f"{time.capitalize()} {moved}.", f"{moved} {time}.")))
        asked = choices.shuffled(recent) + choices.shuffled(_last_visits(places, visits))
        yield facts, iter([_place_before(places, fact_of, *visit) for visit in asked])


def _last_visits(places: dict[str, list[str]], visits: Sequence[Visit]) -> list[Visit]:
    """Returns the last visit to the place of each visit, except where it is the person's first."""
    last = [(who, max(i for i, place in enumerate(places[who]) if place == places[who][number]))
            for who, number in visits]
    return [visit for visit in last if visit[1] > 0]


def _place_before(places: dict[str, list[str]], fact_of: dict[Visit, int], who: str, number: int
                  ) -> QuestionAnswer:
    support = fact_of[who, number], fact_of[who, number - 1]
    return f"Where was {who} before the {places[who][number]}?", places[who][number - 1], support


def _cyclic_permutation(choices: Choices, items: Sequence[Visit]) -> list[Visit]:
    """Returns a random permutation of one cycle (Sattolo's algorithm): no item stays in place."""
    order = list(items)
    for i in range(len(order) - 1, 0, -1):
        j = int(choices.random() * i)
        order[i], order[j] = order[j], order[i]
    return order


def agents_motivations(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """qa20: each person has a feeling, goes to a place because of it, and gets an object there.

    An object can be taken once. The first question of a point is about its fact.
    """
    steps = dict.fromkeys(persons, 0)
    feeling: dict[str, str] = {}
    feeling_fact: dict[str, int] = {}  # person -> index of the fact about their feeling
    taken: set[str] = set()  # the feelings whose object is taken
    open_questions: dict[str, QuestionAnswer] = {}
    for index in range(3 * len(persons)):
        free = [p for p in persons if steps[p] < 2 or (steps[p] == 2 and feeling[p] not in taken)]
        if not free:
            return
        who = choices.pick(free)
        name, step = who.lower(), steps[who]
        if step == 0:
            feeling[who], feeling_fact[who] = choices.pick(tuple(_MOTIVATIONS)), index
        place, thing = _MOTIVATIONS[feeling[who]]
        if step == 0:
            fact, answer = f"{who} is {feeling[who]}.", place
            text = f"Where will {name} go?"
        elif step == 1:
            open_questions.pop(f"Where will {name} go?")
            fact, answer = f"{who} {choices.pick(MOVES)} to the {place}.", feeling[who]
            text = f"Why did {name} go to the {place}?"
        else:
            taken.add(feeling[who])
            fact, answer = choices.pick(GETS).format(who, thing) + " there.", feeling[who]
            text = f"Why did {name} get the {thing}?"
        steps[who] += 1
        question = text, answer, (feeling_fact[who],)
        yield [fact], _with_others(question, open_questions, choices)
        open_questions[text] = question


def _with_others(question: QuestionAnswer, others: dict[str, QuestionAnswer], choices: Choices
                 ) -> Iterator[QuestionAnswer]:
    yield question
    yield from choices.shuffled(list(others.values()))
