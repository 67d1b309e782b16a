"""Tokenizers: exact round trips, the vocabulary, files."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from lm2_jax.data import tokenizer
from lm2_jax.data.prose import generator

DATA = os.environ.get("LM2_TEST_DATA")
KINDS = ("word", "bpe")
BABI = (
    "Mary moved to the kitchen.",
    "Where is Mary?",
    "apple,milk",
    "n,s",
    "Is John in the park?",
    "no",
)


@pytest.fixture(scope="module")
def texts():
    return generator.sentences(0, 2_000)


@pytest.fixture(scope="module")
def trained(texts):
    return {k: tokenizer.train(texts, kind=k, vocab_size=700, required=BABI) for k in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_babi_comes_back_exactly(trained, kind):
    for text in BABI:
        assert trained[kind].decode(trained[kind].encode(text)) == text


def test_words_and_marks_are_tokens_of_their_own(trained):
    word = trained["word"]
    kitchen, stop = word.encode("kitchen."), word.encode(".")
    assert len(kitchen) == 2 and kitchen[1:] == stop
    assert kitchen[:1] == word.encode("Mary moved to the kitchen.")[4:5] == word.encode(" kitchen")
    assert word.encode("apple") + word.encode("milk") == word.encode("apple,milk")[::2]
    assert word.encode("mary") != word.encode("Mary")


def test_words_tokenize_a_text_as_its_sentences(trained, texts):
    word = trained["word"]
    assert word.encode(" ".join(texts)) == sum(word.encode_batch(texts), [])


def test_words_of_generated_prose_come_back_exactly(texts):
    word = tokenizer.train(texts, kind="word", vocab_size=10_000)
    assert [word.decode(ids) for ids in word.encode_batch(texts)] == texts


@given(st.text(st.characters(codec="utf-8")) | st.text("ab \n\t.,é😀ÿ\x00"))
@settings(max_examples=300, deadline=None)
def test_bpe_brings_any_text_back(trained, text):
    assume(not any(special in text for special in tokenizer.SPECIAL_TOKENS))
    assert trained["bpe"].decode(trained["bpe"].encode(text)) == text


@given(st.text("ab .,;!?'\"()-[]⌢<>_é\n"))
@settings(max_examples=300, deadline=None)
def test_words_change_nothing_but_white_space(text):
    word = tokenizer.train([text], kind="word", vocab_size=1_000)
    decoded = word.decode(word.encode(text))
    assert re.sub(r"[\s⌢]", "", text) == re.sub(r"\s", "", decoded)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens(trained, kind):
    tok = trained[kind]
    assert (tok.pad_id, tok.answer_id, tok.end_id) == (0, 1, 2)
    specials = {tok.pad_id, tok.answer_id, tok.end_id}
    ids = tok.encode("Where is Mary?")
    assert not specials & set(ids)
    between = np.array([tok.pad_id, *ids, tok.answer_id, tok.end_id], np.int32)
    assert tok.decode(between) == "Where is Mary?"
    assert tok.encode_batch(list(BABI)) == [tok.encode(text) for text in BABI]
    assert tok.encode("") == [] and tok.encode_batch([]) == [] and tok.decode([]) == ""


def test_word_vocabulary_is_the_most_frequent_words_after_the_required():
    texts = ["b b b a c a c", "d e"]
    small = tokenizer.train(texts, kind="word", vocab_size=8, required=["e z"])
    assert small.vocab_size == 8
    ids = {word: small.encode(word)[0] for word in "abcdez"}
    unknown = small.encode("?")[0]
    assert [word for word in ids if ids[word] == unknown] == ["c", "d"]
    assert sorted(ids, key=ids.get)[-4:] == ["e", "z", "b", "a"]
    assert tokenizer.train(texts, kind="word", vocab_size=99).vocab_size == 9


@pytest.mark.parametrize("kind", KINDS)
def test_vocab_size_bounds_every_id(trained, texts, kind):
    assert trained[kind].vocab_size == 700
    assert max(map(max, trained[kind].encode_batch(texts))) < 700


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(trained, texts, kind):
    again = tokenizer.train(iter(texts), kind=kind, vocab_size=700, required=iter(BABI))
    shuffled = tokenizer.train(texts[::-1], kind=kind, vocab_size=700, required=BABI[::-1])
    assert again.digest == shuffled.digest == trained[kind].digest
    other = tokenizer.train(texts, kind=kind, vocab_size=699, required=BABI)
    assert other.digest != trained[kind].digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "char", "vocab_size": 500}, "must be 'word' or 'bpe', got 'char'"),
        ({"kind": "bpe", "vocab_size": 259}, "at least 260"),
        ({"kind": "word", "vocab_size": 6, "required": ["a b c"]}, "no room for 3 required"),
        ({"kind": "word", "vocab_size": 2}, "no room for 0 required"),
    ],
)
def test_train_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.train(["a b c"], **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_tokenizer(trained, texts, kind, tmp_path):
    path = tmp_path / "new" / "tokenizer.json"
    trained[kind].save(path)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]
    for loaded in (tokenizer.load(path), tokenizer.load(str(path.parent))):
        assert loaded.digest == trained[kind].digest and re.fullmatch("[0-9a-f]{64}", loaded.digest)
        assert loaded.vocab_size == trained[kind].vocab_size
        assert loaded.encode_batch(texts) == trained[kind].encode_batch(texts)
    first = path.read_bytes()
    tokenizer.load(path).save(path)
    assert path.read_bytes() == first
    assert pickle.loads(pickle.dumps(trained[kind])).digest == trained[kind].digest


def test_a_failed_save_leaves_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    trained["word"].save(path)

    def fail(source, target):
        assert Path(source).parent == tmp_path and json.loads(Path(source).read_text())
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        trained["bpe"].save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert tokenizer.load(path).digest == trained["word"].digest


def test_foreign_tokenizer_keeps_its_ids_and_gains_the_special_tokens(texts, tmp_path):
    foreign = tokenizers.Tokenizer(models.BPE())
    foreign.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<unk>"], show_progress=False
    )
    foreign.train_from_iterator(texts, trainer)
    foreign.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    foreign.enable_truncation(5)
    foreign.enable_padding(length=9)
    foreign.save(str(tmp_path / "tokenizer.json"))
    foreign.no_truncation()
    foreign.no_padding()
    loaded = tokenizer.load(tmp_path)
    assert (loaded.pad_id, loaded.answer_id, loaded.end_id) == (400, 401, 402)
    assert loaded.vocab_size == 403
    for text in (*texts[:50], "Mary", " Mary", "  two blanks ", ""):
        assert loaded.encode(text) == foreign.encode(text, add_special_tokens=False).ids
    assert loaded.encode("Mary") == loaded.encode(" Mary")
    loaded.save(tmp_path / "again.json")
    assert tokenizer.load(tmp_path / "again.json").digest == loaded.digest


def test_load_says_in_a_line_what_is_wrong(tmp_path):
    path = tmp_path / "tokenizer.json"
    for missing in (path, tmp_path):
        with pytest.raises(FileNotFoundError, match="no tokenizer at .*tokenizer.json"):
            tokenizer.load(missing)
    for content in ("", "{}", '{"model":\n 3}', "text"):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not a valid tokenizer.json") as info:
            tokenizer.load(path)
        assert "\n" not in str(info.value)


@pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")
@pytest.mark.slow
def test_all_of_babi_comes_back_exactly(texts):
    lines = [
        line.split(" ", 1)[1].split("\t")
        for file in sorted(Path(DATA, "babi", "en-10k").glob("qa*.txt"))
        for line in file.read_text().splitlines()
    ]
    babi = sorted({text.strip() for fields in lines for text in fields[:2]})
    assert len(babi) > 3_000
    word = tokenizer.train(texts, kind="word", vocab_size=250, required=babi)
    assert [word.decode(ids) for ids in word.encode_batch(babi)] == babi
