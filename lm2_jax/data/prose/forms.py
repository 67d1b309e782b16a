"""English inflection by rule, with tables for the words that break the rules."""

from __future__ import annotations

import re

_VOWELS = "aeiou"

_IRREGULAR_VERBS = {
    base: (past, participle)
    for base, past, participle in (
        row.split()
        for row in """
begin began begun; behold beheld beheld; bend bent bent; break broke broken; bring brought
brought; build built built; burst burst burst; buy bought bought; creep crept crept; cut cut cut;
dream dreamt dreamt; drink drank drunk; drive drove driven; fall fell fallen; feed fed fed; feel
felt felt; find found found; fling flung flung; foresee foresaw foreseen; forget forgot forgotten;
forgive forgave forgiven; grow grew grown; hang hung hung; hear heard heard; hide hid hidden; hold
held held; keep kept kept; kneel knelt knelt; know knew known; lay laid laid; lean leant leant;
lend lent lent; lie lay lain; lose lost lost; mislay mislaid mislaid; misread
misread misread; misunderstand misunderstood misunderstood; outshine outshone outshone; overhear
overheard overheard; proofread proofread proofread; read read read; reread reread reread; rewrite
rewrote rewritten; ride rode ridden; rise rose risen; sell sold sold; send sent
sent; set set set; sew sewed sewn; shake shook shaken; shine shone shone; show showed shown; shut
shut shut; sing sang sung; sit sat sat; sleep slept slept; speak spoke spoken; spread spread
spread; stand stood stood; steal stole stolen; sting stung stung; stride
strode stridden; sweep swept swept; tear tore torn; understand understood understood; wake woke
woken; wear wore worn; weep wept wept; write wrote written
""".replace("\n", " ").split(";")
        if row.strip()
    )
}

# Verbs of more than one syllable that double the last consonant all the same.
_DOUBLING = frozenset(
    "admit begin chisel forget outwit prefer quarrel regret submit unpin unravel unwrap".split()
)

_IRREGULAR_PLURALS = dict(
    pair.split(":")
    for pair in """
foot:feet goose:geese midwife:midwives ox:oxen knife:knives scarf:scarves shelf:shelves
calf:calves deer:deer grouse:grouse washerwoman:washerwomen potato:potatoes tomato:tomatoes
echo:echoes
""".split()
)
_IRREGULAR_PLURALS.update(
    (word + "man", word + "men")
    for word in "fisher ferry watch boat coach herds plough signal dray post barge quarry".split()
)


def _last_word(function):
    """Makes a function of one word inflect the last word of a phrase ("oil lamp")."""

    def inflect(phrase: str) -> str:
        head, blank, word = phrase.rpartition(" ")
        return head + blank + function(word)

    return inflect


def _first_word(function):
    """Makes a function of one word inflect the first word of a phrase ("set aside")."""

    def inflect(phrase: str) -> str:
        word, blank, tail = phrase.partition(" ")
        return function(word) + blank + tail

    return inflect


def _syllables(word: str) -> int:
    return len(re.findall("[aeiouy]+", word))


def _doubled(word: str) -> str:
    """The stem before -ed and -ing: "stop" gives "stopp", "wait" stays."""
    short = len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS
    short = short and (word[-3] not in _VOWELS or word[-3:-1] == "ui" and word[-4] == "q")
    if word.endswith("ic"):
        return word + "k"
    if short and (_syllables(word) == 1 or word in _DOUBLING):
        return word + word[-1]
    return word


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
    return _doubled(word) + "ed"


@_last_word
def plural(word: str) -> str:
    """The plural: "lantern" -> "lanterns", "knife" -> "knives"."""
    return _IRREGULAR_PLURALS.get(word) or _add_s(word)


@_first_word
def past(word: str) -> str:
    """The past tense: "mend" -> "mended", "sweep" -> "swept"."""
    return _IRREGULAR_VERBS[word][0] if word in _IRREGULAR_VERBS else _add_ed(word)


@_first_word
def participle(word: str) -> str:
    """The past participle: "mend" -> "mended", "steal" -> "stolen"."""
    return _IRREGULAR_VERBS[word][1] if word in _IRREGULAR_VERBS else _add_ed(word)


@_first_word
def third(word: str) -> str:
    """The third person: "carve" -> "carves", "polish" -> "polishes"."""
    return word + "es" if word.endswith("o") else _add_s(word)


@_first_word
def ing(word: str) -> str:
    """The present participle: "carve" -> "carving", "lie" -> "lying"."""
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return word[:-1] + "ing"
    return _doubled(word) + "ing"


_ARTICLE = re.compile(r"\b([Aa]) (?=([A-Za-z]+))")
_AN = re.compile(r"(?!uni(?![mn])|us[eu]|eu)[aeiou]|hour|hones|heir|honou", re.I)


def fix_articles(text: str) -> str:
    """Turns "a" into "an" where the word after it begins with a vowel sound."""
    return _ARTICLE.sub(lambda m: f"{m[1]}n " if _AN.match(m[2]) else m[0], text)


FORMS = {"inf": str, "pl": plural, "past": past, "pp": participle, "s": third, "ing": ing}
