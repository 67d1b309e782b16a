"""What all simulated tasks share: reproducible random choices, and the form of their output."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

QuestionAnswer = tuple[str, str, tuple[int, ...]]
"""The text of a question, its answer, and the indices of the supporting facts."""

Point = tuple[list[str], Iterator[QuestionAnswer]]
"""New facts, and the questions that can follow them."""


class Choices:
    """Random choices that depend on `key` alone, not on the process or the version of Python."""

    def __init__(self, *key: object):
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        # Python guarantees the sequence of random(), but not that of the other methods of Random.
        self.random = random.Random(int.from_bytes(digest, "big")).random

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        order = [(self.random(), i) for i in range(len(items))]
        return [items[i] for _, i in sorted(order)]
