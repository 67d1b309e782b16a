"""The prose that facts are hidden in: generated, read, split, tokenized, taken."""

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import _PATTERNS, TASKS

from lm2_jax.data import background, prose
from lm2_jax.data.prose_forms import fix_articles, ing, participle, past, plural, third
from lm2_jax.data.prose_nouns import NOUNS
from lm2_jax.data.prose_words import WORDS
from lm2_jax.data.simulator import simulate

DATA = os.environ.get("LM2_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")

# Every word of the 20 bAbI tasks: those that could be taken for a fact or an answer...
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
# ... and the others.
FUNCTION_WORDS = frozenset(
    """a above after afterwards and are back before below did do does down either following from he
    how in inside is many no not of or she than that the then there they this to up was what where
    who why will you""".split()
)


def words_of(text):
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


@pytest.fixture(scope="module")
def generated():
    return prose.sentences(0, 20_000)


@pytest.fixture(scope="module")
def books():
    return {p.name: p.read_text("utf-8") for p in sorted(Path(DATA, "books").rglob("*.txt"))}


# Generated prose.


def test_prose_is_varied_and_of_the_stated_length(generated):
    lengths = [len(words_of(s)) for s in generated]
    assert min(lengths) >= 5 and max(lengths) <= 20
    assert len(set(lengths)) == 16
    assert len({word for s in generated for word in words_of(s)}) > 2_000
    assert len(set(generated)) > 0.99 * len(generated)


def test_prose_has_no_word_of_a_babi_fact(generated):
    lists = (words.replace("_", " ") for words in (NOUNS | WORDS).values())
    words = {word for text in (*generated, *lists) for word in words_of(text)}
    assert not FORBIDDEN & {part for word in words for part in re.split("['-]", word)} - {"s"}


def test_prose_has_no_sentence_of_a_babi_form(generated):
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
    assert prose.sentence(seed, index) == prose.sentence(seed, index)
    assert prose.sentences(seed, 3) == [prose.sentence(seed, i) for i in range(3)]


def test_seeds_and_indices_name_different_texts():
    texts = [tuple(prose.sentences(seed, 20)) for seed in (0, 1, -1, 2**64, 2**64 + 1)]
    assert len(set(texts)) == len(texts)


def test_prose_does_not_change_by_itself():
    expected = "After crossing Hollingbeck, the bold stationer wandered off by the counter."
    assert prose.sentence(0, 0) == expected


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
def test_forbidden_words_are_all_that_babi_has():
    files = sorted(Path(DATA, "babi", "en-10k").glob("qa*.txt"))
    assert len(files) == 40
    found = {word for file in files for word in re.findall("[a-z]+", file.read_text().lower())}
    assert found == FORBIDDEN | FUNCTION_WORDS


def test_forbidden_words_are_all_that_the_simulator_has():
    found = set()
    for story in (simulate(task, 0, index) for task in TASKS for index in range(200)):
        asked = (text for q in story.questions for text in (q.text, q.answer))
        found |= set(re.findall("[a-z]+", " ".join((*story.facts, *asked)).lower()))
    assert found == FORBIDDEN | FUNCTION_WORDS


# Splitting.


@pytest.mark.parametrize(
    "sentences",
    [
        ["Mr. Bennet met Mrs. Hurst and Dr. Le Plongeon in St. John.", "He bowed."],
        ["It was J. R. Smith of the H.M. Customs.", "And who was I.", "But no."],
        ['"Why?" asked the girl.', '"Go!"', "“Stay.”", "(He went.)", "'Tis so."],
        ["He waited . . . and waited...", "Then he left.", "--Who?", "See No. 5 and p. 12."],
        ["No.", "He said no.", "In 1616 he died.", "Élan!", "It cost 3.50 then."],
    ],
)
def test_split_finds_the_sentences(sentences):
    assert background.split_sentences("  " + "\n ".join(sentences) + "\n") == sentences


def test_blank_line_is_a_border_and_line_break_is_none():
    text = "CHAPTER ONE\n\nit was\r\nnight\n \t\n\nand cold"
    assert background.split_sentences(text) == ["CHAPTER ONE", "it was night", "and cold"]


@given(st.lists(st.sampled_from(["Mr.", "J.", "I.", '."', '"', "a", "B", ". ", "?", " ", "\n"])))
@settings(deadline=None)
def test_split_loses_nothing_but_white_space(pieces):
    text = "".join(pieces)
    sentences = background.split_sentences(text)
    assert " ".join(sentences).split() == text.split()
    assert all(s and s == " ".join(s.split()) for s in sentences)


@needs_data
def test_split_gives_sane_sentences_of_real_books(books):
    for name, text in books.items():
        sentences = background.split_sentences(text)
        assert not [s for s in sentences if re.search(r"\b(Mr|Mrs|Dr|St|Messrs)\.$", s)], name
        assert 8 < np.mean([len(s.split()) for s in sentences]) < 40, name
        assert np.mean([s[-1] in ".!?\"'…)" for s in sentences]) > 0.9, name


# Loading.


def test_generated_is_the_default_and_a_prefix_of_more():
    documents = background.load("", seed=7, num_sentences=250)
    assert [len(d) for d in documents] == [100, 100, 50]
    longer = background.load("generated", seed=7, num_sentences=300)
    assert documents == [*longer[:2], longer[2][:50]]
    assert [s for d in documents for s in d] == prose.sentences(7, 250)


def write_parquet(path, column, values):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({column: values}), path)


def test_load_reads_every_kind_of_file(tmp_path):
    texts = ["One came. Two went.", "Café au lait.\n\nNo end"]
    expected = [["One came.", "Two went."], ["Café au lait.", "No end"]]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text(texts[1], "utf-8")
    (tmp_path / "a.txt").write_text("\ufeff" + texts[0], "utf-8")
    (tmp_path / "README.md").write_text("Not a book.")
    assert background.load(tmp_path) == expected
    assert background.load(str(tmp_path / "a.txt")) == expected[:1]
    lines = "\n\n".join(json.dumps({"text": text, "url": ""}) for text in texts)
    (tmp_path / "c.jsonl").write_text(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write_parquet(tmp_path / "c.parquet", "text", [texts[0], None, "", texts[1]])
    for name in ("c.jsonl", "c.jsonl.gz", "c.parquet"):
        assert background.load(tmp_path / name) == expected
    assert background.load(tmp_path) == [expected[0], expected[1], *expected * 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n ", "holds no text"),
        ("a.txt", b"caf\xe9", "not UTF-8: byte 3"),
        ("a.pdf", b"x", "unknown kind"),
        ("a.jsonl", b'{"text": "A b."}\n{"text": 3}\n', "line 2: expected"),
        ("a.jsonl", b"[1]\n", "line 1: expected"),
        ("a.jsonl", b"text\n", "line 1: expected"),
        ("a.jsonl.gz", b"{}", "not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "A b."}', mtime=0)[:-9], "not a whole gzip file"),
        ("a.parquet", b"PAR1", "not a readable parquet file"),
    ],
)
def test_load_says_in_a_line_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        background.load(path)
    assert str(path) in str(info.value) and "\n" not in str(info.value)


def test_load_refuses_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no background at"):
        background.load(tmp_path / "books")
    with pytest.raises(ValueError, match="no background texts in the folder"):
        background.load(tmp_path)
    with pytest.raises(ValueError, match="num_sentences"):
        background.load("", num_sentences=0)
    for column, values in (("body", ["A b."]), ("text", [1])):
        write_parquet(tmp_path / "a.parquet", column, values)
        with pytest.raises(ValueError, match="no column 'text'"):
            background.load(tmp_path / "a.parquet")


# Tokens.


def letters(texts):
    return [[ord(c) for c in text] for text in texts]


@given(st.lists(st.lists(st.text(max_size=8), max_size=4), max_size=4), st.integers(1, 5))
@settings(deadline=None)
def test_tokenize_keeps_the_sentences_that_are_long_enough(documents, min_tokens):
    kept = [ids for d in documents for ids in letters(d) if len(ids) >= min_tokens]
    if not kept:
        with pytest.raises(ValueError, match="no sentence"):
            background.tokenize(documents, letters, min_tokens)
        return
    corpus = background.tokenize(documents, letters, min_tokens)
    assert corpus.tokens.dtype == np.int32 and corpus.starts.dtype == np.int64
    assert [c.tolist() for c in np.split(corpus.tokens, corpus.starts[1:-1])] == kept
    assert corpus.num_sentences == len(kept)


def test_tokenize_works_through_many_batches():
    corpus = background.tokenize([["abcd"] * 5_000, ["abc", "efgh"] * 3_000], letters)
    assert corpus.num_sentences == 8_000 and len(corpus.tokens) == 32_000


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 20), st.integers(0, 70))
@settings(max_examples=400, deadline=None)
def test_a_passage_equals_plain_python(lengths, start, num_tokens):
    tokens = np.arange(sum(lengths), dtype=np.int32)
    starts = np.cumsum([0, *lengths])
    corpus = background.TokenizedBackground(tokens, starts)
    expected, bounds = [], [0]
    sentence = start % len(lengths)
    while len(expected) < num_tokens:
        expected += range(starts[sentence], starts[sentence + 1])
        bounds.append(min(len(expected), num_tokens))
        sentence = (sentence + 1) % len(lengths)
    passage = corpus.passage(start, num_tokens)
    taken, count = passage[:], passage.sentences_before(num_tokens)
    boundaries = passage.borders(np.arange(count + 1))
    assert len(passage) == num_tokens
    part = slice(num_tokens // 3, num_tokens // 3 + 5)
    assert passage[part].tolist() == expected[:num_tokens][part]
    for place in range(num_tokens + 1):
        assert passage.sentences_before(place) == sum(bound < place for bound in bounds[:-1])
    assert taken.tolist() == expected[:num_tokens] and taken.dtype == np.int32
    assert boundaries.tolist() == bounds and boundaries.dtype == np.int64
    taken += 1
    boundaries += 1
    assert tokens.tolist() == list(range(sum(lengths)))
    assert starts.tolist() == np.cumsum([0, *lengths]).tolist()


def test_background_refuses_what_does_not_fit():
    tokens = np.zeros(4, np.int32)
    for starts in ([0], [0, 3], [1, 4]):
        with pytest.raises(ValueError, match="starts"):
            background.TokenizedBackground(tokens, np.array(starts))
    with pytest.raises(ValueError, match="a token or more"):
        background.TokenizedBackground(tokens[:0], np.array([0, 0]))
    with pytest.raises(ValueError, match="negative"):
        background.TokenizedBackground(tokens, np.array([0, 4])).passage(0, -1)
