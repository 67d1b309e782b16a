"""Long texts: read in pieces, kept as tokens in a file."""

import gzip
import itertools
import json
import tracemalloc
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.config import DataConfig, EvalConfig
from lm2_jax.data.babilong import corpus, prompting
from lm2_jax.data.babilong.encoder import Encoder, sentence_ids
from lm2_jax.data.babilong.samples import read_file
from lm2_jax.data.text import background, json_file
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.pieces import Spool, Text
from lm2_jax.errors import UserError

PROSE = st.text(st.sampled_from("Aab5 \t\n.,!\"'—(é\u3000"), max_size=60) | st.lists(
    st.sampled_from(["Mr.", "No.", "5", "I.", "He", "she", "end.", "“Oh!”", " ", "  ", "\n", "\n\n",
                     " \n ", "—"]), max_size=30).map("".join)
# Where Llama 3 splits before it looks for pairs.
LLAMA = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def cut(text, size):
    return [text[i:i + size] for i in range(0, len(text), size)]


@cache
def words():
    data = DataConfig(background_sentences=300, tokenizer_vocab_size=300)
    return corpus.make_tokenizer(data, 0)


@given(PROSE, st.integers(1, 9))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_sentences_do_not_depend_on_the_pieces(text, size):
    assert list(background.sentences_of(cut(text, size))) == background.split_sentences(text)


@given(PROSE, st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_a_text_in_parts_is_the_text_with_the_words_of_the_whole(text, size, least):
    parts = list(texts.stripped_parts(cut(text, size), least))
    assert "".join(parts) == text.strip() and all(parts)
    gpt2 = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    llama = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA), "isolated")
    for split in (gpt2, llama):
        whole, found = ([word for part in some for word, _ in split.pre_tokenize_str(part)]
                        for some in ([text.strip()], parts))
        assert found == whole


def test_a_text_is_cut_where_it_can_be():
    assert list(texts.stripped_parts([" a bc  d", "e f\n g "], 2)) == ["a bc ", " de f\n", " g"]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8), st.integers(1, 7))
@settings(deadline=None, max_examples=80, derandomize=True)
def test_what_is_written_is_read(parts, block):
    spool = Spool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_BLOCK", block)
        written = [Text([[7, 7], [8]], spool), Text(parts, spool), Text([], spool), Text(parts)]
        for text in (written[1], written[3]):
            tokens = [token for part in parts for token in part]
            assert len(text) == len(tokens) and text[:].dtype == np.int32
            assert text[:].tolist() == tokens and text[2:5].tolist() == tokens[2:5]
            assert text[5:2].tolist() == [] and text[90:99].tolist() == []
            assert [s.tolist() for s in text.sentences()] == [part for part in parts if part]
        assert written[0][:].tolist() == [7, 7, 8] and list(written[2].sentences()) == []


@pytest.mark.parametrize("name", ["qa1_64k.json", "qa1_64k.jsonl.gz"])
@pytest.mark.parametrize("way", ["fine_tuned", "instruct"])
def test_one_context_at_a_time_is_in_memory_and_no_tokens(tmp_path, monkeypatch, way, name):
    monkeypatch.setattr(json_file, "_CHUNK", 2**12)
    monkeypatch.setattr(texts, "PIECE", 2**12)
    monkeypatch.setattr(prompting, "_ENCODE_BATCH", 32)
    monkeypatch.setattr(texts.stripped_parts, "__defaults__", (2**12,))
    sentences = list(itertools.chain(*background.load("generated", num_sentences=600))) * 10
    sample = {"input": " ".join(sentences), "question": "Where is Mary?", "target": "kitchen"}
    size, path = len(sample["input"]), tmp_path / name
    with (gzip.open if name.endswith("gz") else open)(path, "wt") as file:
        file.write(json.dumps([sample] * 5) if name.endswith("json") else
                   (json.dumps(sample) + "\n") * 5)
    asked = prompting.make(EvalConfig(prompt_style=way), Encoder(words()))
    asked.suffix("qa1", "Where is Mary?")
    tracemalloc.start()
    prompts = read_file(path, asked)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = [token for sentence in sentence_ids(words(), sentences) for token in sentence]
    before = len(asked.prefix("qa1"))
    for prompt in prompts:
        assert prompt.tokens[before:before + len(tokens)].tolist() == tokens
    assert len(prompts) == 5 and size > 400_000 and 4 * len(tokens) > 300_000
    assert kept < 60_000 and most < 5 * size + 150_000, (kept, most / size)


@pytest.mark.parametrize("text", ["and so on " * 30_000, "x" * 300_000, "one. two. " * 30_000,
                                  "\n" * 300_000], ids=["words", "letters", "dots", "lines"])
@pytest.mark.parametrize("split", [background.sentences_of, texts.stripped_parts])
def test_a_text_of_one_sentence_takes_time_in_proportion_to_its_length(monkeypatch, split, text):
    """Once 4 MB took 6.3 s: all that was read was split again with each piece."""
    handed = 0
    def counted(find):
        def count(text, *rest):
            nonlocal handed
            handed += len(text)
            return find(text, *rest)
        return count

    monkeypatch.setattr(background, "split_sentences", counted(background.split_sentences))
    monkeypatch.setattr(texts, "_CUT", SimpleNamespace(match=counted(texts._CUT.match)))
    assert "".join(split(cut(text, 1000))).split() == text.split()
    assert handed <= 4 * len(text)


def test_a_full_disk_is_told(monkeypatch):
    spool = Spool()

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(UserError, match="a context cannot be written to /.*: No space left on "
                                        "device; set TMPDIR to another folder"):
        Text([[1, 2]], spool)
