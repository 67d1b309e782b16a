"""English prose from a grammar and word lists, used as background text where there are no books.

Sentence i depends on (seed, i) alone and is the same on every machine and Python version. The data
files of this folder hold the grammar and the words; grammar.txt explains the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache

from lm2_jax.data.prose.inflection import FORMS, fix_articles, read_sections

MIN_WORDS, MAX_WORDS = 5, 20
_SUBJECTS = "fmp"  # the kinds of subject: feminine, masculine, plural
_SLOT = re.compile(r"\{(\w+)(?::(\w+|\*))?\}|([^{}]+)")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_LONGEST_REPEATED = 4  # letters; a longer word occurs only once in a sentence
_MASK = (1 << 64) - 1


class _Random:
    """SplitMix64: fast, and unlike the standard library's choices guaranteed never to change."""

    def __init__(self, key: str):
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def below(self, limit: int) -> int:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) * limit) >> 64


@cache
def word_lists() -> dict[str, tuple[str, ...]]:
    """Returns the words and phrases of each list of nouns.txt and words.txt."""
    lists = read_sections("nouns.txt") | read_sections("words.txt")
    return {name: tuple(word.replace("_", " ") for line in lines for word in line.split())
            for name, lines in lists.items()}


@cache
def _rules() -> dict[str, list[tuple[str, str]]]:
    """Returns the alternatives of each grammar rule: (kinds of subject, template)."""
    return {name: [alternative for line in lines for alternative in _alternatives(line)]
            for name, lines in read_sections("grammar.txt").items()}


def _alternatives(line: str) -> Iterator[tuple[str, str]]:
    for text in filter(None, line.split(" / ")):
        kind, bar, template = text.partition("| ")
        yield ({"s": "fm"}.get(kind, kind), template) if bar else (_SUBJECTS, text)


@cache
def _expansions(kind: str) -> tuple:
    """Returns the alternatives of rule "sentence" for one kind of subject.

    An alternative is a string, or a tuple of strings and further tuples of alternatives.
    """
    table: dict[tuple[str, str | None], tuple] = {}

    def expansions(name: str, form: str | None) -> tuple:
        if (name, form) not in table:
            if name in _rules():
                table[name, form] = tuple(parts(template, form)
                                          for kinds, template in _rules()[name] if kind in kinds)
            else:
                table[name, form] = tuple(map(FORMS[form or "inf"], word_lists()[name]))
        return table[name, form]

    def parts(template: str, form: str | None) -> tuple:
        return tuple(text or expansions(name, form if slot == "*" else slot or None)
                     for name, slot, text in _SLOT.findall(template))

    return expansions("sentence", None)


def _draw(alternatives: tuple, random: _Random, out: list[str]) -> None:
    """Appends the strings of a random alternative to `out`."""
    chosen = alternatives[random.below(len(alternatives))]
    if isinstance(chosen, str):
        out.append(chosen)
        return
    for part in chosen:
        if isinstance(part, str):
            out.append(part)
        else:
            _draw(part, random, out)


def _acceptable(text: str) -> bool:
    words = _WORD.findall(text.lower())
    long = [word for word in words if len(word) > _LONGEST_REPEATED]
    return MIN_WORDS <= len(words) <= MAX_WORDS and len(long) == len(set(long))


def sentence(seed: int, index: int) -> str:
    """Returns sentence `index`, of 5 to 20 words, of the endless text of `seed`."""
    random = _Random(f"{seed}/{index}")
    text = ""
    while not _acceptable(text):
        out: list[str] = []
        _draw(_expansions(_SUBJECTS[random.below(len(_SUBJECTS))]), random, out)
        text = "".join(out)
    text = re.sub(r"\^(.)", lambda m: m[1].upper(), text)
    return fix_articles(re.sub('^"?.', lambda m: m[0].upper(), text))


def sentences(seed: int, num_sentences: int) -> list[str]:
    """Returns the first `num_sentences` sentences of the text of `seed`."""
    return [sentence(seed, index) for index in range(num_sentences)]
