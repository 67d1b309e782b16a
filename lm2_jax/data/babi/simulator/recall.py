"""Key-value recall ("kv"): each key is told once, with its value; no task of bAbI.

It asks how many facts a memory holds, where a task of bAbI asks for the last few of them.
Background text has none of its words for things, colors and values.
"""

import itertools
from collections.abc import Iterator, Sequence

from lm2_jax.data.babi.simulator.sampling import Choices, Point, QuestionAnswer

_COLORS = ("blue", "gray", "green", "pink", "red", "white", "yellow")
_THINGS = ("apple", "box", "chest", "container", "football", "milk", "suitcase")
VALUES = ("cat", "frog", "lion", "mouse", "rectangle", "rhino", "sheep", "sphere", "square", "swan",
          "triangle", "wolf")
_FACTS_PER_POINT = 2


def key_value_recall(choices: Choices, persons: Sequence[str]) -> Iterator[Point]:
    """Two new pairs a point, 24 points at most; a question is about any pair that was told."""
    keys = choices.shuffled(list(itertools.product(_COLORS, _THINGS)))
    told: list[QuestionAnswer] = []
    for point in range(len(keys) // _FACTS_PER_POINT):
        facts = []
        for color, thing in keys[point * _FACTS_PER_POINT:][:_FACTS_PER_POINT]:
            value, fact = choices.pick(VALUES), len(told)
            facts.append(f"The password of the {color} {thing} is {value}.")
            told.append((f"What is the password of the {color} {thing}?", value, (fact,)))
        yield facts, iter(choices.shuffled(told))
