"""The simulated stories of kinds and sizes: what follows from what is told (qa15, qa16, qa18)."""

from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.world import Asked, Dice, Point

AFRAID = ("Emily", "Gertrude", "Jessica", "Winona")
_PLURAL = {"cat": "cats", "mouse": "mice", "sheep": "sheep", "wolf": "wolves"}
_FEARS_ASKED = 4

COLORED = ("Bernhard", "Brian", "Greg", "Julius", "Lily")
_KINDS = ("frog", "lion", "rhino", "swan")
_COLORS = ("gray", "green", "white", "yellow")
_PEERS = (1, 3, 4)

_SMALL = ("chocolate", "box of chocolates")  # of rising size, and smaller than the others
_LARGE = ("box", "chest", "container", "suitcase")
_SIZES_TOLD, _SIZES_ASKED = 5, 5


def tell_fears(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa15: what each kind of animal fears, and of which kind some are.

    A kind's fear is told before an animal of that kind.
    """
    facts: list[str] = []
    fears: dict[str, tuple[str, int]] = {}  # kind -> whom it fears, index of the fact
    asked: list[Asked] = []
    untold = [*_PLURAL, *persons]
    while untold:
        name = dice.pick(untold)
        if name in _PLURAL:
            other = dice.pick([kind for kind in _PLURAL if kind != name])
            fears[name] = other, len(facts)
            fact = f"{_PLURAL[name].capitalize()} are afraid of {_PLURAL[other]}."
        else:
            kind = dice.pick(tuple(_PLURAL))
            if kind not in fears:
                continue
            other, index = fears[kind]
            fact = f"{name} is a {kind}."
            asked.append((f"What is {name.lower()} afraid of?", other, (len(facts), index)))
        facts.append(fact)
        untold.remove(name)
    draws = [dice.pick(asked) for _ in range(_FEARS_ASKED)]
    yield facts, iter(draws + dice.shuffled(asked))


def tell_colors(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa16: of which kind animals are, and the color of all but one.

    The one that is asked for has the color of the last of its kind that was told. As in the real
    files a kind's color changes with each animal of the kind that is told, and the one that is
    asked for has one, three or four of its kind.
    """
    while True:
        facts: list[str] = []
        current: dict[str, str] = {}  # the color of a kind
        kinds: dict[str, tuple[str, int]] = {}  # in the order of telling, with the fact's index
        colors: dict[str, tuple[str, int]] = {}
        while len(facts) < 2 * len(persons) - 1:
            name = dice.pick([person for person in persons if person not in colors])
            if name not in kinds:
                kind = dice.pick(_KINDS)
                current[kind] = dice.pick(_COLORS)
                kinds[name] = kind, len(facts)
                facts.append(f"{name} is a {kind}.")
            else:
                color = current[kinds[name][0]]
                colors[name] = color, len(facts)
                facts.append(f"{name} is {color}.")
        (asked,) = kinds.keys() - colors.keys()
        kind, index = kinds[asked]
        peers = [name for name in kinds if kinds[name][0] == kind and name in colors]
        if len(peers) in _PEERS:
            color, seen = colors[peers[-1]]
            support = index, kinds[peers[-1]][1], seen
            yield facts, iter([(f"What color is {asked}?", color, support)])
            return


def tell_sizes(dice: Dice, persons: Sequence[str]) -> Iterator[Point]:
    """qa18: five facts on the sizes of boxes, and five more until two of them can be linked."""
    order = [*_SMALL, *dice.shuffled(_LARGE)]
    told: list[tuple[str, str]] = []  # smaller, bigger
    facts: list[str] = []
    while True:
        for _ in range(_SIZES_TOLD):
            pair = dice.shuffled(range(len(order)))[:2]
            small, big = (order[i] for i in sorted(pair))
            told.append((small, big))
            forms = f"The {small} fits inside the {big}.", f"The {big} is bigger than the {small}."
            facts.append(dice.pick(forms))
        asked = [question for link in _links(told) for question in _size_questions(told, *link)]
        if asked:
            draws = [dice.pick(asked) for _ in range(_SIZES_ASKED)]
            yield facts, iter(draws + dice.shuffled(asked))
            facts = []


def _links(told: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Pairs of facts: any one, and the first other one that has a box of it, if that links them."""
    links = []
    for index, pair in enumerate(told):
        for role, middle in enumerate(pair):
            others = (i for i, other in enumerate(told) if i != index and middle in other)
            first = next(others, index)
            if told[first][1 - role] == middle:
                links.append((index, first))
    return links


def _size_questions(
    told: Sequence[tuple[str, str]], index: int, first: int
) -> tuple[Asked, Asked]:
    """Whether the outer box of one fact is bigger than that of the other."""
    yes = told[first][1] == told[index][0]
    small, big = (told[first][0], told[index][1]) if yes else (told[first][1], told[index][0])
    answer, support = ("yes" if yes else "no"), (index, first)
    return (
        (f"Does the {small} fit in the {big}?", answer, support),
        (f"Is the {big} bigger than the {small}?", answer, support),
    )
