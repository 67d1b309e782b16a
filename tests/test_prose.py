"""Generated prose: varied, well formed, and without a word of a bAbI fact."""

import hashlib
import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import _PATTERNS, TASKS

from lm2_jax.data.babi.simulator.tasks import simulate
from lm2_jax.data.prose import generator
from lm2_jax.data.prose.inflection import fix_articles, ing, participle, past, plural, third

DATA = os.environ.get("LM2_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")

# Every word of the 20 bAbI tasks: those that could be mistaken for a fact or an answer
FORBIDDEN = frozenset(
    """antoine bernhard bill brian daniel emily fred gertrude greg jason jeff jessica john julie
    julius lily mary sandra sumit winona yann
    bathroom bedroom cinema garden hallway kitchen office park school
    apple box chest chocolate chocolates container football milk objects pajamas suitcase
    cat cats frog lion mice mouse rhino sheep swan wolf wolves
    blue color gray green pink red white yellow rectangle sphere square triangle
    afraid bored hungry thirsty tired bigger fit fits longer
    afternoon evening morning yesterday
    east north south west e n s w left right
    maybe none nothing one three two yes
    carrying discarded dropped gave get give go got grabbed handed journeyed moved passed picked
    put received took travelled went""".split()
)
# All other words of the tasks.
FUNCTION_WORDS = frozenset(
    """a above after afterwards and are back before below did do does down either following from he
    how in inside is many no not of or she than that the then there they this to up was what where
    who why will you""".split()
)


OWN = {"password"}  # of kv, which is no task of bAbI


def words_of(text):
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


@pytest.fixture(scope="module")
def generated():
    return generator.sentences(0, 20_000)


def test_prose_is_varied_and_of_the_stated_length(generated):
    lengths = [len(words_of(s)) for s in generated]
    assert min(lengths) >= 5 and max(lengths) <= 20
    assert len(set(lengths)) == 16
    assert len({word for s in generated for word in words_of(s)}) > 2_000
    assert len(set(generated)) > 0.99 * len(generated)


def test_prose_has_no_word_of_a_babi_fact(generated):
    listed = itertools.chain.from_iterable(generator.word_lists().values())
    words = {word for text in (*generated, *listed) for word in words_of(text)}
    parts = {part for word in words for part in re.split("['-]", word)}
    assert not (FORBIDDEN | OWN) & parts - {"s"}


def test_prose_has_no_sentence_in_the_form_of_a_babi_fact(generated):
    moves = re.compile(r"\w+ \w+ (back )?to the \w+( \w+)?\.|.*\b(is|was|were) (in|at) the \w+\.")
    facts = [_PATTERNS[form] for form in {form for _, forms, _ in TASKS.values() for form in forms}]
    assert not [s for s in generated if any(form.fullmatch(s) for form in (moves, *facts))]


def test_prose_is_well_formed(generated):
    for s in generated:
        assert re.fullmatch(r'(?=["A-Z])[A-Za-z \',"!-]+\.?[A-Za-z \',"!-]*[.!]"?', s), s
        assert s.strip('"')[0].isupper() and s.count('"') in (0, 2)
        assert "  " not in s and "{" not in s and s[-1] in '."'
        assert not re.search(r"\ba [aeio]\w*|\ban [^aeiouh]", s), s
        long = [word for word in words_of(s) if len(word) > 4]
        assert len(long) == len(set(long)), s


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_sentence_is_a_function_of_seed_and_index(seed, index):
    assert generator.sentence(seed, index) == generator.sentence(seed, index)
    assert generator.sentences(seed, 3) == [generator.sentence(seed, i) for i in range(3)]


def test_different_seeds_give_different_texts():
    texts = [tuple(generator.sentences(seed, 20)) for seed in (0, 1, -1, 2**64, 2**64 + 1)]
    assert len(set(texts)) == len(texts)


def test_prose_stays_the_same(generated):
    expected = "After crossing Hollingbeck, the bold stationer wandered off by the counter."
    assert generated[0] == expected
    digests = [hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
               for text in (generated, generator.sentences(12345, 20_000))]
    assert digests == ["d2c4bc5066a9450d", "bb842c8833107106"]


@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        (plural, "lamp:lamps knife:knives church:churches pony:ponies day:days scarf:scarves"),
        (past, "mend:mended stop:stopped hide:hid carve:carved envy:envied wait:waited"),
        (participle, "steal:stolen panic:panicked regret:regretted offer:offered fix:fixed"),
        (third, "polish:polishes envy:envies obey:obeys go:goes carve:carves"),
        (ing, "lie:lying carve:carving sit:sitting see:seeing dye:dyeing knit:knitting"),
        (fix_articles, "a owl:an owl;a useful:a useful;a honest:an honest;a unkind:an unkind"),
    ],
)
def test_inflection(function, pairs):
    for pair in pairs.split(";" if ";" in pairs else None):
        word, expected = pair.split(":")
        assert function(word) == expected


@needs_data
def test_forbidden_words_are_complete_for_the_babi_files():
    files = sorted(Path(DATA, "babi", "en-10k").glob("qa*.txt"))
    assert len(files) == 40
    found = {word for file in files for word in re.findall("[a-z]+", file.read_text().lower())}
    assert found == FORBIDDEN | FUNCTION_WORDS


def test_forbidden_words_are_complete_for_the_simulator():
    found = set()
    for story in (simulate(task, 0, index) for task in TASKS for index in range(200)):
        asked = (text for q in story.questions for text in (q.text, q.answer))
        found |= set(re.findall("[a-z]+", " ".join((*story.facts, *asked)).lower()))
    assert found == FORBIDDEN | FUNCTION_WORDS | OWN
