"""Answers that a tokenizer cannot write are refused, whatever it calls an unknown word."""

import json

import pytest
import runs
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from lm2_jax.cli import main
from lm2_jax.config import EvalConfig
from lm2_jax.data import tokenizer
from lm2_jax.data.babi.files import Question
from lm2_jax.data.babilong import prompting
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.samples import read_file

WORDS = "Where is Mary moved to the kitchen ? . went John Daniel Sandra".split()
REFUSED = "the tokenizer does not know all words of the answer 'hallway': it decodes as "


def word_level(unk, words=WORDS, *, special=False, normalizer=None):
    known = {word: i for i, word in enumerate([*([unk] if unk else []), *words])}
    made = tokenizers.Tokenizer(models.WordLevel(known, unk_token=unk) if unk else
                                models.WordLevel(known))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.normalizer = normalizer or normalizers.Sequence([])
    if special:
        made.add_special_tokens([AddedToken(unk, special=True)])
    return made


def letters():
    """Without an unknown token: what it does not know it leaves out."""
    return tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate("abcdefgik ")}, []))


MADE = {"special": (word_level("[UNK]", special=True), "''"),
        "not special": (word_level("[UNK]"), r"'\[UNK\]'"),
        "another name": (word_level("⁇"), "'⁇'"),
        "left out": (letters(), "'a a'")}


@pytest.mark.parametrize("name", MADE)
def test_an_answer_that_is_decoded_as_something_else_is_refused(tmp_path, name):
    made, decoded = MADE[name]
    made.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tokenizer.load(tmp_path))
    with pytest.raises(ValueError, match=REFUSED + decoded):
        encoder.question(Question("Where is Mary?", "hallway", (), 0))
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([{"task": "qa1", "length": "0k", "input": "Mary went.",
                                 "question": "Where is Mary?", "target": "hallway"}]))
    with pytest.raises(ValueError, match="samples.json, sample 1: " + REFUSED) as error:
        read_file(path, prompting.make(EvalConfig(), encoder))
    assert "\n" not in str(error.value)
    if name == "special":
        assert encoder.tokenizer.unk_id == 0


def test_case_and_white_space_may_change(tmp_path):
    word_level("[UNK]", ["n", ",", "s", "kitchen"], normalizer=normalizers.Lowercase()).save(
        str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tokenizer.load(tmp_path))
    assert encoder.answer("Kitchen")[1] == "kitchen"
    assert encoder.answer("n,s")[1] == "n , s"


def test_a_tokenizer_without_an_unknown_token_says_so_in_a_line(tmp_path):
    word_level(None).save(str(tmp_path / "tokenizer.json"))
    tokens = tokenizer.load(tmp_path)
    assert tokens.unk_id is None and len(tokens.encode("Mary went to the kitchen.")) == 6
    for encode in (tokens.encode, lambda text: tokens.encode_batch(["Mary", text])):
        with pytest.raises(ValueError, match="words that the tokenizer does not know, and it has "
                                             "no token for unknown words .*; take another") as e:
            encode("Mary went to the hallway.")
        assert "\n" not in str(e.value)
    with pytest.raises(TypeError):
        tokens.encode(3)


def test_a_run_is_refused_before_it_begins(tmp_path, capsys):
    """Once such a run scored 100 %: every answer was decoded as nothing."""
    word_level("[UNK]", special=True).save(str(tmp_path / "tokenizer.json"))
    assert main(["train", runs.CONFIG, f"--workdir={tmp_path / 'run'}", *runs.SMALL,
                 f"--config.data.tokenizer={tmp_path / 'tokenizer.json'}"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert "does not know all words of the answer 'bathroom': it decodes as ''" in line
    assert not (tmp_path / "run" / "config.json").exists()
