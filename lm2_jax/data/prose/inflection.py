"""English inflection by rule, with the exceptions of irregular.txt."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import resources

_VOWELS = "aeiou"
_ARTICLE = re.compile(r"\b([Aa]) (?=([A-Za-z]+))")
_VOWEL_SOUND = re.compile(r"(?!uni(?![mn])|us[eu]|eu)[aeiou]|hour|hones|heir|honou", re.I)


def read_sections(name: str) -> dict[str, list[str]]:
    """Reads a data file of this folder: the lines after each line "section:", without comments."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        if line.endswith(":"):
            lines = sections[line[:-1]] = []
        else:
            lines.append(line)
    return sections


@cache
def _irregular(section: str) -> dict[str, list[str]]:
    """Returns the irregular forms of each word; an empty list for a word that is only listed."""
    lines = read_sections("irregular.txt")[section]
    if section == "doubling":
        return {word: [] for line in lines for word in line.split()}
    return {word: forms for word, *forms in map(str.split, lines)}


def plural(phrase: str) -> str:
    """Inflects the last word: "oil lamp" -> "oil lamps", "knife" -> "knives"."""
    head, space, word = phrase.rpartition(" ")
    irregular = _irregular("plurals").get(word)
    return head + space + (irregular[0] if irregular else _add_s(word))


def _first_word(inflect: Callable[[str], str]) -> Callable[[str], str]:
    """Makes a function of one word inflect the first word of a phrase ("set aside")."""

    def inflect_phrase(phrase: str) -> str:
        word, space, tail = phrase.partition(" ")
        return inflect(word) + space + tail

    return inflect_phrase


@_first_word
def past(word: str) -> str:
    """Returns the past tense: "mend" -> "mended", "sweep" -> "swept"."""
    irregular = _irregular("verbs").get(word)
    return irregular[0] if irregular else _add_ed(word)


@_first_word
def participle(word: str) -> str:
    """Returns the past participle: "mend" -> "mended", "steal" -> "stolen"."""
    irregular = _irregular("verbs").get(word)
    return irregular[1] if irregular else _add_ed(word)


@_first_word
def third(word: str) -> str:
    """Returns the third person singular: "carve" -> "carves", "go" -> "goes"."""
    return word + "es" if word.endswith("o") else _add_s(word)


@_first_word
def ing(word: str) -> str:
    """Returns the present participle: "carve" -> "carving", "lie" -> "lying"."""
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return word[:-1] + "ing"
    return _stem(word) + "ing"


def _add_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _add_ed(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ied"
    return _stem(word) + "ed"


def _stem(word: str) -> str:
    """Returns the stem before -ed and -ing: "stop" -> "stopp", "panic" -> "panick"."""
    if word.endswith("ic"):
        return word + "k"
    one_vowel = re.search(r"(?:[^aeiou]|qu)[aeiou][^aeiouwxy]$", word)
    one_syllable = len(re.findall("[aeiouy]+", word)) == 1
    if one_vowel and (one_syllable or word in _irregular("doubling")):
        return word + word[-1]
    return word


def fix_articles(text: str) -> str:
    """Replaces "a" by "an" where the next word begins with a vowel sound."""
    return _ARTICLE.sub(lambda m: f"{m[1]}n " if _VOWEL_SOUND.match(m[2]) else m[0], text)


FORMS: dict[str, Callable[[str], str]] = {
    "inf": str, "pl": plural, "past": past, "pp": participle, "s": third, "ing": ing,
}
