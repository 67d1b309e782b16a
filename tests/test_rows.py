"""What the rows of a training batch hold."""

import dataclasses
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from batch_sources import SIMULATED, T, config_of, corpus_of, equal, source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import _PATTERNS, TASKS, solve

from lm2_jax.data.babilong import deferred
from lm2_jax.data.babilong.batches import SampleMaker
from lm2_jax.data.babilong.encoder import Sample
from lm2_jax.data.batches import pack
from lm2_jax.training.loss import count_answers

DATA = os.environ.get("LM2_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")
PEOPLE = "Mary John Daniel Sandra Fred Bill Jeff Julie".split()


def samples_of(batch):
    """(tokens, loss weights) of each sample of a batch, without padding."""
    for row, (tokens, weights) in enumerate(zip(batch.tokens_BL, batch.loss_weight_BL,
                                                strict=True)):
        starts = np.flatnonzero(batch.reset_BS[row]) * T
        for start, stop in itertools.pairwise([*starts, len(tokens)]):
            valid = batch.valid_BL[row, start:stop]
            yield tokens[start:stop][valid], weights[start:stop][valid]


def read(tokens, tokenizer, task):
    """The facts and the (facts so far, question, answer)s that stand in a sample as text."""
    _, fact_forms, question_forms = TASKS[task]
    facts, asked = [], []
    for part in np.split(tokens, np.flatnonzero(tokens == tokenizer.end_id) + 1):
        told, *answer = np.split(part, np.flatnonzero(part == tokenizer.answer_id))
        text = tokenizer.decode(told)
        found = {m.start(): m for form in fact_forms for m in _PATTERNS[form].finditer(text)
                 if set(re.findall("[A-Z][a-z]+", m[0])) <= {*PEOPLE, "The"}}
        facts += [found[start][0] for start in sorted(found)]
        if answer:
            questions = [m[0] for form in question_forms for m in _PATTERNS[form].finditer(text)]
            asked += [(tuple(facts), question, tokenizer.decode(answer[0]).strip())
                      for question in questions if text.endswith(question)]
    return facts, asked


@st.composite
def rows_of_samples(draw):
    segments = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    samples, starts = [], []
    for count in segments:
        n = draw(st.integers((count - 1) * 5 + 1, count * 5))
        tokens = np.arange(n, dtype=np.int32) + 100 * (len(samples) + 1)
        samples.append(Sample(tokens, np.array(draw(st.lists(st.booleans(), min_size=n,
                                                             max_size=n)))))
        starts.append(sum(segments[:len(starts)]))
    return samples, starts, sum(segments)


@given(rows_of_samples(), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_pack_keeps_samples_apart(row_of_samples, elsewhere):
    samples, starts, S = row_of_samples
    row = pack(samples, starts, S, 5, 9, elsewhere)
    assert row.tokens_BL.dtype == row.targets_BL.dtype == np.int32
    assert row.loss_weight_BL.dtype == np.float32
    np.testing.assert_array_equal(np.flatnonzero(row.reset_BS), starts)
    for sample, start, stop in zip(samples, starts, [*starts[1:], S], strict=True):
        span, n = slice(5 * start, 5 * stop), len(sample.tokens)
        padding = 5 * (stop - start) - n
        assert row.tokens_BL[span].tolist() == [*sample.tokens, *[9] * padding]
        assert row.valid_BL[span].tolist() == [True] * n + [False] * padding
        assert row.targets_BL[span].tolist() == [*sample.tokens[1:], *[9] * (padding + 1)]
        weights = [1.0 if answer else elsewhere for answer in sample.answer[1:]]
        assert row.loss_weight_BL[span].tolist() == weights + [0.0] * (padding + 1)


class Blank(SampleMaker):
    """Draws samples that are quickly made."""

    def draw(self, segments, rng):
        tokens = np.zeros(segments * self.segment_length - int(rng.integers(2)), np.int32)
        return Sample(tokens, np.ones(len(tokens), bool))


@pytest.mark.parametrize("segments", [1, 2, 5, 32])
def test_samples_of_varied_length_are_of_all_lengths_alike_and_fill_the_row(segments):
    source, rows = source_of(batch_size=3000, curriculum=((0, segments),)), 3000
    maker = Blank(source.maker.config, source.maker.corpus, 3)
    batch = dataclasses.replace(source, maker=maker)[0]
    assert batch.tokens_BL.shape == (rows, 3 * segments) and batch.reset_BS[:, 0].all()
    assert batch.valid_BL.reshape(rows, segments, 3)[:, :, 0].all()
    lengths = [np.diff([*np.flatnonzero(reset), segments]) for reset in batch.reset_BS]
    counts = np.bincount(np.concatenate(lengths), minlength=segments + 1)[1:]
    expected = 2 * rows / (segments + 1)  # of each length
    assert (np.abs(counts - expected) < 4 * np.sqrt(2 * expected)).all()
    assert abs(counts[-1] - expected) < 4 * np.sqrt(expected)  # rows that are one sample


def test_rows_of_varied_length_are_full_of_real_samples():
    batch = source_of(batch_size=50)[0]
    assert batch.tokens_BL.shape == (50, 4 * T) and batch.valid_BL.all()
    assert {tuple(row) for row in batch.reset_BS.tolist()} == {
        tuple(segment in (0, border) for segment in range(4)) for border in range(4)}


def test_rows_of_one_length_are_drawn_as_a_row_of_one_sample():
    source = source_of(vary_length=False, curriculum=((0, 3),))
    drawn = source.maker.draw(3, np.random.default_rng([source.seed, 2, 1]))
    assert equal(source.row(2, 1), pack([drawn], [0], 3, T,
                                        source.maker.corpus.encoder.tokenizer.pad_id, 0.0))


def test_one_length_is_one_sample_a_row():
    batch = source_of(vary_length=False)[0]
    assert batch.valid_BL.all()
    np.testing.assert_array_equal(batch.reset_BS, [[True, False, False, False]] * 6)


def test_curriculum_changes_segments_and_rows_at_its_steps():
    source = source_of(curriculum=((0, 1), (2, 3, 5), (3, 2)))
    shapes = [source[step].tokens_BL.shape for step in range(5)]
    assert shapes == [(6, T), (6, T), (5, 3 * T), (6, 2 * T), (6, 2 * T)]


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_bare_samples_are_facts_and_questions_alone(fraction):
    source = source_of(batch_size=100, bare_fraction=fraction)
    batch, t = source[0], source.maker.corpus.encoder.tokenizer
    bare = []
    for tokens, _ in samples_of(batch):
        facts, asked = read(tokens, t, "qa1")
        text = " ".join(re.sub(f"{'|'.join(map(re.escape, [*facts, *(a[1] for a in asked)]))}",
                               "", t.decode(tokens)).split())
        bare.append(text == " ".join(answer for *_, answer in asked))
    assert abs(np.mean(bare) - fraction) < 0.12
    assert (batch.valid_BL.mean() < 1) == (fraction > 0)
    assert not batch.loss_weight_BL[~batch.valid_BL].any()
    assert batch.valid_BL.reshape(100, 4, T).any(axis=2).all()  # no segment is wasted


@pytest.mark.parametrize("elsewhere", [0.0, 0.3])
def test_loss_is_on_answers_and_end_marks(elsewhere):
    source = source_of(loss_on_all=elsewhere, bare_fraction=0.2)
    t = source.maker.corpus.encoder.tokenizer
    for tokens, weights in samples_of(source[0]):
        answers = np.cumsum(tokens == t.answer_id) > np.cumsum(tokens == t.end_id)
        np.testing.assert_array_equal(weights[:-1], np.where(answers[:-1], 1, elsewhere)
                                      .astype(np.float32))  # from the mark to before the end
        assert weights[-1] == 0


def test_dense_rows_ask_on_the_way_and_others_once_at_the_end():
    for dense in (True, False):
        source = source_of(dense=dense, batch_size=20)
        t = source.maker.corpus.encoder.tokenizer
        marks = [np.flatnonzero(tokens == t.answer_id) for tokens, _ in samples_of(source[0])]
        if dense:
            assert max(map(len, marks)) > 3
            assert any(tokens[-1] != t.end_id for tokens, _ in samples_of(source[0]))
        else:
            assert {len(m) for m in marks} == {1}
            assert all(tokens[-1] == t.end_id for tokens, _ in samples_of(source[0]))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("task", SIMULATED)
def test_answers_follow_from_the_facts_before(task, dense):
    source = source_of(tasks=(task,), dense=dense, curriculum=((0, 8),))
    t, checked = source.maker.corpus.encoder.tokenizer, 0
    for step in range(3):
        for tokens, _ in samples_of(source[step]):
            _, asked = read(tokens, t, task)
            assert len(asked) == (tokens == t.answer_id).sum()
            for facts, question, answer in asked:
                assert solve(task, facts, question) == answer
                checked += 1
    assert checked >= 18


def test_any_question_of_a_story_may_be_the_one_asked():
    source = source_of(dense=False, vary_length=False, points_per_segment=0.0, batch_size=60)
    t = source.maker.corpus.encoder.tokenizer
    told = [len(read(tokens, t, "qa1")[0]) for tokens, _ in samples_of(source[0])]
    assert set(told) == {2, 4, 6, 8, 10}


def test_all_tasks_are_drawn():
    source = source_of(tasks=("qa1", "qa4"), vary_length=False, batch_size=60)
    t = source.maker.corpus.encoder.tokenizer
    geography = sum(" of the " in t.decode(tokens) and bool(read(tokens, t, "qa4")[1])
                    for tokens, _ in samples_of(source[0]))
    assert 18 <= geography <= 42


def test_stories_that_never_fit_are_told_in_one_line():
    config = config_of()
    maker = SampleMaker(config, corpus_of(config), 8)
    with pytest.raises(ValueError, match=r"no story of qa1 .* 8 tokens; raise model.segment") as e:
        maker.draw(1, np.random.default_rng(0))
    assert "\n" not in str(e.value)


# Real stories in real books.


@needs_data
@pytest.mark.parametrize("dense", [True, False])
def test_real_samples_agree_with_the_solver(dense):
    changes = {"babi": str(Path(DATA, "babi/en-10k")), "dense": dense,
               "background": str(Path(DATA, "books/train/dubliners.txt")),
               "tokenizer_vocab_size": 4096, "vary_length": False, "curriculum": ((0, 10),)}
    source = source_of(**changes)
    t, checked = source.maker.corpus.encoder.tokenizer, 0
    for step in range(4):
        batch = source[step]
        assert batch.valid_BL.all() and batch.tokens_BL.shape == (6, 10 * T)
        for tokens, _ in samples_of(batch):
            facts, asked = read(tokens, t, "qa1")
            assert len(asked) == (tokens == t.answer_id).sum()
            assert facts[-1] in asked[-1][0] and (not dense or len(asked) == 5)
            for told, question, answer in asked:
                assert solve("qa1", told, question) == answer
                checked += 1
    assert checked == (120 if dense else 24)


@pytest.mark.parametrize("passed", [0.0, 0.5, 1.0])
def test_a_long_row_holds_several_samples_that_take_over_the_state(passed):
    config = dict(vary_length=False, sample_segments=2, curriculum=((0, 7),), batch_size=40)
    batch = source_of(passed_states=passed, **config)[0]
    starts = np.flatnonzero(source_of(passed_states=0.0, **config)[0].reset_BS.any(axis=0))
    assert starts.tolist() == [0, 2, 4, 6]
    assert batch.reset_BS[:, 0].all() and not batch.reset_BS[:, 1::2].any()
    share = batch.reset_BS[:, starts[1:]].mean()
    assert abs(share - (1 - passed)) < 0.2 and (passed == 0.5 or share == 1 - passed)


def test_long_samples_have_no_more_points_than_allowed():
    def answers(**changes):
        batch = source_of(vary_length=False, deferred=True, curriculum=((0, 20),), batch_size=8,
                          questions_per_point=1, **changes)[0]
        return count_answers(batch.answer_BL, batch.answer_BL)[1]

    assert answers(max_points=3) <= 8 * 3 < answers()


@pytest.mark.parametrize("most", [1, 2])
def test_a_segment_has_no_more_points_than_allowed(most, monkeypatch):
    """Each point of this task has two facts."""
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    source = source_of(vary_length=False, deferred=True, batch_size=20, curriculum=((0, 3),),
                       max_points_per_segment=most, questions_per_point=1)
    decode = source.maker.corpus.encoder.tokenizer.decode
    told = [len(re.findall(r"[A-Z]\w+ (?:went|moved|journeyed|travelled) ", decode(segment)))
            for segment in source[0].tokens_BL.reshape(-1, T)]
    assert max(told) == 2 * most
