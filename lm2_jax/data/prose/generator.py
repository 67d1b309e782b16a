"""Prose made from a grammar and word lists of our own, to hide facts in where no book is at hand.

Sentence i is a function of (seed, i) alone, the same on every machine and Python version.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache

from lm2_jax.data.prose.forms import FORMS, fix_articles
from lm2_jax.data.prose.grammar import GRAMMAR
from lm2_jax.data.prose.nouns import NOUNS
from lm2_jax.data.prose.words import WORDS

MIN_WORDS, MAX_WORDS = 5, 20
_KINDS = "fmp"  # the subject of a sentence: female, male, plural
_LISTS = {
    name: tuple(word.replace("_", " ") for word in words.split())
    for name, words in (NOUNS | WORDS).items()
}
_MASK = (1 << 64) - 1
_SLOT = re.compile(r"\{(\w+)(?::(\w+|\*))?\}|([^{}]+)")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_REPEATABLE = 4  # a longer word does not come twice in a sentence


class _Random:
    """SplitMix64: small, fast and fixed for ever, unlike the standard library's choices."""

    def __init__(self, key: str):
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def below(self, limit: int) -> int:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) * limit) >> 64


def _parse(grammar: str) -> dict[str, list[tuple[str, str]]]:
    """Rule name -> its forms, each (kinds it is for, template)."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for line in grammar.strip().splitlines():
        if line.endswith(":"):
            forms = rules[line[:-1]] = []
            continue
        for form in filter(None, line.split(" / ")):
            kind, bar, template = form.partition("| ")
            kinds = {"": _KINDS, "s": "fm"}.get(kind, kind) if bar else _KINDS
            forms.append((kinds, template if bar else form))
    return rules


@cache
def _compiled(kind: str) -> dict:
    """The grammar for one kind of subject: (name, form) -> a tuple of alternatives, each a
    string or a tuple of strings and further alternatives."""
    rules = _parse(GRAMMAR)
    table: dict = {}

    def alternatives(name: str, form: str | None) -> tuple:
        if (name, form) in table:
            return table[name, form]
        if name in rules:
            result = tuple(parts(t, form) for kinds, t in rules[name] if kind in kinds)
        elif form is None:
            result = _LISTS[name]
        else:
            result = tuple(map(FORMS[form], _LISTS[name]))
        table[name, form] = result
        return result

    def parts(template: str, form: str | None) -> tuple:
        return tuple(
            text or alternatives(name, form if slot == "*" else slot or None)
            for name, slot, text in _SLOT.findall(template)
        )

    alternatives("sentence", None)
    return table


def _expand(alternatives: tuple, random: _Random, out: list[str]) -> None:
    chosen = alternatives[random.below(len(alternatives))]
    if isinstance(chosen, str):
        out.append(chosen)
        return
    for part in chosen:
        if isinstance(part, str):
            out.append(part)
        else:
            _expand(part, random, out)


def _acceptable(text: str) -> bool:
    words = _WORD.findall(text.lower())
    long = [word for word in words if len(word) > _REPEATABLE]
    return MIN_WORDS <= len(words) <= MAX_WORDS and len(long) == len(set(long))


def sentence(seed: int, index: int) -> str:
    """Sentence number `index` of the endless text named by `seed`: 5 to 20 words."""
    random = _Random(f"{seed}/{index}")
    while True:
        rules = _compiled(_KINDS[random.below(len(_KINDS))])
        out: list[str] = []
        _expand(rules["sentence", None], random, out)
        text = "".join(out)
        if _acceptable(text):
            break
    text = re.sub(r"\^(.)", lambda m: m[1].upper(), text)
    first = 1 if text[0] == '"' else 0
    return fix_articles(text[:first] + text[first].upper() + text[first + 1 :])


def sentences(seed: int, num_sentences: int) -> list[str]:
    """The first `num_sentences` sentences of the text named by `seed`."""
    return [sentence(seed, index) for index in range(num_sentences)]
