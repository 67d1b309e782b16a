"""Retrieval by BM25: which sentences, in which order, and what the results say of lengths."""

import collections
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.config import EvalConfig
from lm2_jax.data.babilong.encoder import Piece
from lm2_jax.data.babilong.mixing import Joined, Mixture, Text
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.data.text.background import TokenizedBackground
from lm2_jax.eval import babilong, rag

BEFORE, BEHIND = np.array([90], np.int32), np.array([7, 8, 91], np.int32)


def prompt_of(sentences):
    text = Text([np.array(sentence, np.int32) for sentence in sentences])
    return Prompt("qa1", "1k", Joined((BEFORE, text, BEHIND)), "Where?", "there")


def scores(query, sentences, k1=1.5, b=0.75):
    """BM25 with Lucene's idf, from its definition."""
    n, mean = len(sentences), np.mean([len(s) for s in sentences])
    containing = collections.Counter(word for s in sentences for word in set(s))
    total = []
    for s in sentences:
        count = collections.Counter(s)
        total.append(sum(
            math.log(1 + (n - containing[w] + 0.5) / (containing[w] + 0.5)) * count[w]
            / (count[w] + k1 * (1 - b + b * len(s) / mean)) for w in query if w in count))
    return total


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=12),
       st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True), st.integers(1, 6),
       st.sampled_from(["document", "similarity"]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_best_sentences_are_kept(sentences, query, count, order):
    prompt = prompt_of(sentences)
    kept = rag.retrieve(prompt, np.array(query), count, order)
    before, context, behind = kept.tokens.parts
    assert np.array_equal(before, BEFORE) and np.array_equal(behind, BEHIND)
    assert (kept.question, kept.target, kept.length) == ("Where?", "there", "1k")
    if len(sentences) <= count:
        assert np.array_equal(kept.tokens[:], prompt.tokens[:])
        return
    assert kept.whole == len(prompt.tokens)
    wanted = sorted(scores(query, sentences), reverse=True)[:count]
    # Equal scores may be chosen either way, so the choice is judged by what it scores.
    options = collections.defaultdict(list)
    for score, sentence in zip(scores(query, sentences), sentences, strict=True):
        options[tuple(sentence)].append(score)
    assert any(np.allclose(sorted(got, reverse=True), wanted, atol=1e-5)
               for got in parses(context.tolist(), options))


def parses(tokens, options, got=()):
    """The scores of the ways to read the tokens as sentences."""
    if not tokens:
        yield list(got)
    for sentence, found in options.items():
        if tuple(tokens[:len(sentence)]) == sentence:
            yield from parses(tokens[len(sentence):], options, (*got, found[0]))


def test_order():
    sentences = [[1, 2], [7, 3, 4, 5, 6], [9, 9], [7, 8], [3, 3], [8, 2, 2, 2, 2, 2]]
    for order, wanted in (("document", [1, 3, 5]), ("similarity", [3, 1, 5])):
        kept = rag.retrieve(prompt_of(sentences), np.array([7, 8]), 3, order).tokens.parts[1]
        assert kept.tolist() == [token for i in wanted for token in sentences[i]]


@pytest.mark.parametrize("cuts", [(0, 0), (3, 8), (8, 8), (0, 11)])
def test_sentences_of_a_mixture_are_its_tokens_in_order(cuts):
    prose = TokenizedBackground(np.arange(11, dtype=np.int32), np.array([0, 3, 8, 11]))
    pieces = [Piece(np.arange(100, 104, dtype=np.int32), 4), Piece(np.array([200], np.int32), 1)]
    mixture = Mixture(pieces, np.array(cuts), prose.passage(0, 11))
    sentences = list(mixture.sentences())
    np.testing.assert_array_equal(np.concatenate(sentences), mixture[:])
    assert len(sentences) == 5 and {len(s) for s in sentences} == {3, 5, 4, 1}


def test_segments_of_a_row_are_those_that_the_model_reads():
    """And its tokens those of the whole sample."""
    whole = prompt_of([[n] * 5 for n in range(1, 13)])
    given = rag.retrieve(whole, np.array([3]), 2, "document")
    assert (len(whole.tokens), len(given.tokens)) == (64, 14)

    class Model:
        model = SimpleNamespace(config=SimpleNamespace(segment_length=8))

        def answer(self, prompts, *_, **__):
            return [[0] for _ in prompts]

    (row, _), = babilong.evaluate(Model(), {("qa1", "1k"): [given]}, EvalConfig(), str,
                                  ("carried",))
    assert (row.tokens, row.segments) == (64.0, 2.0)
