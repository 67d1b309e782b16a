"""The mixing of facts and prose, on numbers in the place of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.data import tokenizer
from lm2_jax.data.babi.simulator.tasks import TASKS, simulate
from lm2_jax.data.babi.story import Question
from lm2_jax.data.babilong.encoder import Encoder, Piece, sentence_ids
from lm2_jax.data.babilong.mixing import fitting, mix, pieces_of
from lm2_jax.data.text.background import TokenizedBackground

FIRST = 10**6  # tokens of pieces are above, tokens of prose below


def prose_of(sentence_sizes):
    """Every token of it is another number."""
    starts = np.concatenate([[0], np.cumsum(sentence_sizes)])
    return TokenizedBackground(np.arange(starts[-1], dtype=np.int32), starts)


def pieces_like(sizes_and_answers):
    return [Piece(np.arange(n, dtype=np.int32) + FIRST + 1000 * i, n - min(a, n))
            for i, (n, a) in enumerate(sizes_and_answers)]


def size(pieces):
    return sum(len(piece.tokens) for piece in pieces)


@st.composite
def mixtures(draw):
    """Arguments of `mix` that fit."""
    pieces = pieces_like(draw(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 3)),
                                       min_size=1, max_size=8)))
    last_at_end = draw(st.booleans())
    length = size(pieces) + draw(st.integers(0, 150))
    before = size(pieces[:-1] if last_at_end else pieces)
    facts_end = draw(st.none() | st.integers(before, length))
    prose = prose_of(draw(st.lists(st.integers(1, 12), min_size=1, max_size=30)))
    return pieces, length, prose, draw(st.integers(0, 2**32)), last_at_end, facts_end


@given(mixtures())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_mixture_is_the_pieces_in_consecutive_prose(mixture):
    pieces, length, prose, seed, last_at_end, facts_end = mixture
    lazy = mix(pieces, length, prose, np.random.default_rng(seed), last_at_end=last_at_end,
               facts_end=facts_end)
    sample = lazy.sample()
    assert len(lazy) == length
    for part in (slice(seed % (length + 1), None), slice(seed % 7, seed % 17),
                 slice(length // 2, length // 2 + 5)):
        np.testing.assert_array_equal(lazy[part], sample.tokens[part])
    assert sample.tokens.shape == sample.answer.shape == (length,)
    assert sample.tokens.dtype == np.int32 and sample.answer.dtype == bool

    told = sample.tokens >= FIRST
    np.testing.assert_array_equal(sample.tokens[told], np.concatenate([p.tokens for p in pieces]))
    noise = sample.tokens[~told]
    start = int(np.searchsorted(prose.starts, noise[0])) if len(noise) else 0
    taken = prose.passage(start, len(noise))
    borders = taken.borders(np.arange(taken.sentences_before(len(noise)) + 1))
    np.testing.assert_array_equal(noise, taken[:])

    places = np.flatnonzero(told)
    for piece in pieces:
        place, places = places[:len(piece.tokens)], places[len(piece.tokens):]
        np.testing.assert_array_equal(np.diff(place), 1)  # not torn apart
        assert (~told[:place[0]]).sum() in borders
        np.testing.assert_array_equal(sample.answer[place],
                                      np.arange(len(place)) >= piece.answer)
    assert not sample.answer[~told].any()
    if last_at_end:
        assert told[length - len(pieces[-1].tokens):].all()
    if facts_end is not None:
        scattered = np.flatnonzero(told)[:size(pieces[:-1] if last_at_end else pieces)]
        assert len(scattered) == 0 or scattered[-1] < facts_end


def chi_square(seen, expected):
    return float(np.sum((np.asarray(seen) - expected) ** 2 / expected))


def cuts_of(sample, pieces):
    """How much prose stands before each piece."""
    told = sample.tokens >= FIRST
    return [int((~told)[:np.flatnonzero(sample.tokens == piece.tokens[0])[0]].sum())
            for piece in pieces]


def test_places_are_sorted_uniform_draws_over_the_gaps():
    prose, pieces = prose_of([5] * 40), pieces_like([(3, 0), (4, 0), (2, 1)])
    seen = np.zeros((4, 4))  # gaps before, between and behind three sentences
    for seed in range(4000):
        sample = mix(pieces, 15 + 9, prose, np.random.default_rng(seed), last_at_end=True).sample()
        first, second, last = cuts_of(sample, pieces)
        assert last == 15
        seen[first // 5, second // 5] += 1
    assert seen[np.tril_indices(4, -1)].sum() == 0
    pairs = np.triu_indices(4)
    expected = np.where(pairs[0] == pairs[1], 1, 2) * 4000 / 16
    assert chi_square(seen[pairs], expected) < 33.7  # one in 10,000 of chance, 9 degrees


def test_a_gap_beside_a_long_sentence_is_as_likely_as_another():
    prose, pieces = prose_of([2, 2, 2, 2, 30] * 8), pieces_like([(1, 0)])
    seen, expected = np.zeros(2), np.zeros(2)
    for seed in range(2000):
        sample = mix(pieces, 101, prose, np.random.default_rng(seed), last_at_end=False).sample()
        noise = sample.tokens[sample.tokens < FIRST]
        passage = prose.passage(int(np.searchsorted(prose.starts, noise[0])), 100)
        borders = passage.borders(np.arange(passage.sentences_before(100) + 1))
        long = np.diff(borders, prepend=0) > 2  # the sentence before the gap
        seen[int(long[list(borders).index(cuts_of(sample, pieces)[0])])] += 1
        expected += np.array([(~long).sum(), long.sum()]) / len(borders)
    assert chi_square(seen, expected) < 15.1  # one in 10,000, 1 degree


def test_prose_begins_at_any_sentence():
    prose, last = prose_of([3] * 10), pieces_like([(1, 0)])
    starts = {int(mix(last, 7, prose, np.random.default_rng(seed), last_at_end=True)[:][0])
              for seed in range(200)}
    assert starts == set(range(0, 30, 3))


def test_length_0_is_the_pieces_alone():
    pieces = pieces_like([(5, 0), (4, 2)])
    for last_at_end in (True, False):
        sample = mix(pieces, 0, prose_of([4, 4]), np.random.default_rng(0),
                     last_at_end=last_at_end).sample()
        np.testing.assert_array_equal(sample.tokens, np.concatenate([p.tokens for p in pieces]))
        np.testing.assert_array_equal(np.flatnonzero(sample.answer), [7, 8])


@pytest.mark.parametrize(("length", "facts_end"), [(8, None), (8, 8), (30, 4), (30, -48)])
def test_what_does_not_fit_is_told_in_one_line(length, facts_end):
    with pytest.raises(ValueError, match=f"9 tokens .* do not fit a sample of {length}") as error:
        mix(pieces_like([(5, 0), (4, 2)]), length, prose_of([4]), np.random.default_rng(0),
            last_at_end=True, facts_end=facts_end)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def encoder():
    stories = [simulate(task, 0, index) for task in TASKS for index in range(50)]
    texts = {text for story in stories for text in (
        *story.facts, *(q.text for q in story.questions), *(q.answer for q in story.questions))}
    return Encoder(tokenizer.train(sorted(texts), vocab_size=300))


def test_pieces_are_text_answer_mark_answer_end(encoder):
    t = encoder.tokenizer
    for answer in ("kitchen", "hallway"):  # the same question with two answers
        asked = encoder.question(Question("Where is Mary?", answer, (0,), 1))
        mark = asked.answer - 1
        assert t.decode(asked.tokens[:mark]).strip() == "Where is Mary?"
        assert asked.tokens[mark] == t.answer_id and asked.tokens[-1] == t.end_id
        assert t.decode(asked.tokens[asked.answer:-1]).strip() == answer
        assert (asked.tokens == t.answer_id).sum() == (asked.tokens == t.end_id).sum() == 1
    fact = encoder.fact("Mary went to the kitchen.")
    assert t.decode(fact.tokens).strip() == "Mary went to the kitchen."
    assert fact.answer == len(fact.tokens)


def test_a_blank_stands_before_each_sentence():
    words = tokenizer.train(["Mary is here."], kind="bpe", vocab_size=300)
    ids = sentence_ids(words, ["Mary is here.", "So is John."])
    assert words.decode(sum(ids, [])) == " Mary is here. So is John."


@pytest.mark.parametrize("task", TASKS)
def test_pieces_are_the_story_up_to_a_question(task, encoder):
    story = simulate(task, 3, 0, points=6, per_point=2)
    for last, question in enumerate(story.questions):
        texts = [encoder.tokenizer.decode(p.tokens).strip()
                 for p in pieces_of(story, encoder, last, dense=False)]
        assert texts == [*story.facts[:question.num_facts], f"{question.text} {question.answer}"]
        dense = pieces_of(story, encoder, last, dense=True)
        asked = [(i, p) for i, p in enumerate(dense) if p.answer < len(p.tokens)]
        assert len(asked) == last + 1 and len(dense) == last + 1 + question.num_facts
        for (i, piece), earlier in zip(asked, story.questions, strict=False):
            np.testing.assert_array_equal(piece.tokens, encoder.question(earlier).tokens)
            assert sum(p.answer == len(p.tokens) for p in dense[:i]) == earlier.num_facts


@pytest.mark.parametrize("dense", [True, False])
def test_fitting_counts_the_questions_whose_story_fits(dense, encoder):
    for index in range(20):
        story = simulate("qa5", 1, index, per_point=2)
        sizes = [size(pieces_of(story, encoder, last, dense=dense))
                 for last in range(len(story.questions))]
        for room in (0, 10, *sizes, *(n - 1 for n in sizes), 1000):
            count = fitting(story, encoder, room, dense=dense)
            assert all(n <= room for n in sizes[:count])
            assert count == len(sizes) or sizes[count] > room
