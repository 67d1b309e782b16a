"""Kinds of animals and what follows for their members: deduction (qa15) and induction (qa16)."""

from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer

DEDUCTION_ANIMALS = ("Emily", "Gertrude", "Jessica", "Winona")
_PLURAL = {"cat": "cats", "mouse": "mice", "sheep": "sheep", "wolf": "wolves"}
_DEDUCTION_QUESTIONS = 4

INDUCTION_ANIMALS = ("Bernhard", "Brian", "Greg", "Julius", "Lily")
_KINDS = ("frog", "lion", "rhino", "swan")
_COLORS = ("gray", "green", "white", "yellow")
_NUM_PEERS = (1, 3, 4)


def basic_deduction(choices: Choices, animals: Sequence[str]) -> Iterator[Point]:
    """qa15: which kind each kind is afraid of, and the kinds of some animals.

    The fact about a kind comes before the animals of that kind.
    """
    facts: list[str] = []
    afraid_of: dict[str, tuple[str, int]] = {}  # kind -> the feared kind, index of the fact
    questions: list[QuestionAnswer] = []
    remaining = [*_PLURAL, *animals]
    while remaining:
        name = choices.pick(remaining)
        if name in _PLURAL:
            feared = choices.pick([kind for kind in _PLURAL if kind != name])
            afraid_of[name] = feared, len(facts)
            fact = f"{_PLURAL[name].capitalize()} are afraid of {_PLURAL[feared]}."
        else:
            kind = choices.pick(tuple(_PLURAL))
            if kind not in afraid_of:
                continue
            feared, index = afraid_of[kind]
            fact = f"{name} is a {kind}."
            questions.append((f"What is {name.lower()} afraid of?", feared, (len(facts), index)))
        facts.append(fact)
        remaining.remove(name)
    drawn = [choices.pick(questions) for _ in range(_DEDUCTION_QUESTIONS)]
    yield facts, iter(drawn + choices.shuffled(questions))


def basic_induction(choices: Choices, animals: Sequence[str]) -> Iterator[Point]:
    """qa16: the kinds of all animals and the colors of all but one, whose color is asked for.

    The answer is the color of the last animal of its kind. As in the real files, each animal can
    change the color of its kind, and there are one, three or four animals of the kind in question.
    """
    while True:
        facts: list[str] = []
        color_of_kind: dict[str, str] = {}
        kinds: dict[str, tuple[str, int]] = {}  # animal -> kind, index of the fact
        colors: dict[str, tuple[str, int]] = {}  # animal -> color, index of the fact
        while len(facts) < 2 * len(animals) - 1:
            name = choices.pick([animal for animal in animals if animal not in colors])
            if name not in kinds:
                kind = choices.pick(_KINDS)
                color_of_kind[kind] = choices.pick(_COLORS)
                kinds[name] = kind, len(facts)
                facts.append(f"{name} is a {kind}.")
            else:
                color = color_of_kind[kinds[name][0]]
                colors[name] = color, len(facts)
                facts.append(f"{name} is {color}.")
        (asked,) = kinds.keys() - colors.keys()
        kind, index = kinds[asked]
        peers = [name for name in kinds if kinds[name][0] == kind and name in colors]
        if len(peers) in _NUM_PEERS:
            color, color_index = colors[peers[-1]]
            support = index, kinds[peers[-1]][1], color_index
            yield facts, iter([(f"What color is {asked}?", color, support)])
            return
