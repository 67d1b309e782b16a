"""The prose that facts are hidden in: read, split, tokenized, taken."""

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.data.prose import generator
from lm2_jax.data.text import background

DATA = os.environ.get("LM2_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")


@pytest.fixture(scope="module")
def books():
    return {p.name: p.read_text("utf-8") for p in sorted(Path(DATA, "books").rglob("*.txt"))}


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
    assert [s for d in documents for s in d] == generator.sentences(7, 250)


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


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_a_byte_order_mark_is_skipped(tmp_path, name):
    text = "One came." if name == "a.txt" else json.dumps({"text": "One came."})
    content = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert background.load(tmp_path) == [["One came."]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n ", "holds no text"),
        ("a.txt", b"caf\xe9", "not UTF-8: byte 3"),
        ("a.pdf", b"x", "unknown kind"),
        ("a.jsonl", b'{"text": "A b."}\n{"text": 3}\n', "a.jsonl:2: expected"),
        ("a.jsonl", b"3\n", "a.jsonl:1: expected"),
        ("a.jsonl", b"text\n", "a.jsonl:1 is not JSON"),
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
