"""Deferred questions: each is in a later segment than its facts."""

import dataclasses

import numpy as np
import pytest
from solver import solve

from lm2_jax.config import Config, DataConfig
from lm2_jax.data.babilong import batches, corpus, deferred

T = 32


@pytest.fixture(scope="module")
def data():
    config = DataConfig(deferred=True, vary_length=False, points_per_segment=0.7,
                        questions_per_point=4, background_sentences=500,
                        tokenizer_vocab_size=512, curriculum=((0, 5, 4),))
    tokens = corpus.make_tokenizer(config, 0)
    return corpus.training(Config(data=config), tokens)


def samples(data, num_segments, count):
    for index in range(count):
        rng = np.random.default_rng([7, index])
        story = data.sources[0].draw(rng, 4, 4)
        points = deferred.points_of(story, data.encoder)
        sample = deferred.mix(points, num_segments, T, data.background, rng)
        if sample:  # else more facts fell into one segment than it holds
            yield story, sample


def sentences(data, tokens):
    return data.encoder.tokenizer.decode(tokens)


@pytest.mark.parametrize("num_segments", [2, 3, 5, 9])
def test_length_is_exact_and_answers_are_marked(data, num_segments):
    t = data.encoder.tokenizer
    for _, sample in samples(data, num_segments, 30):
        assert len(sample.tokens) == len(sample.answer) == num_segments * T
        begins = np.flatnonzero(np.diff(sample.answer.astype(int), prepend=0) == 1)
        assert begins.size and (sample.tokens[begins - 1] == t.answer_id).all()
        ends = np.flatnonzero(np.diff(sample.answer.astype(int), append=0) == -1)
        assert (sample.tokens[ends] == t.end_id).all()


def test_no_question_stands_with_its_facts(data, monkeypatch):
    """What a question asks for was last told in an earlier segment, and its answer is right."""
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    asked = 0
    for story, sample in samples(data, 6, 60):
        known = {tuple(data.encoder.fact(fact).tokens.tolist()): fact for fact in story.facts}
        told = []
        for segment in range(6):
            part = sample.tokens[segment * T:(segment + 1) * T].tolist()
            answer = sample.answer[segment * T:(segment + 1) * T]
            first_fact = T
            here = []
            for start in range(T):
                for ids, fact in known.items():
                    if tuple(part[start:start + len(ids)]) == ids:
                        here.append(fact)
                        first_fact = min(first_fact, start)
            for begin in np.flatnonzero(np.diff(answer.astype(int), prepend=0) == 1):
                assert begin < first_fact, "questions come before the segment's own facts"
                end = begin + int(np.argmin(answer[begin:])) if not answer[begin:].all() else T
                text = sentences(data, part[:begin])
                question = "Where is" + text.rsplit("Where is", 1)[1]
                assert solve("qa1", told, question) == sentences(data, part[begin:end])
                asked += 1
            told += here
    assert asked > 100


def test_borders_fall_into_facts_and_answers_stay_right(data, monkeypatch):
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 1.0)
    cut = asked = 0
    for story, sample in samples(data, 6, 60):
        told, answers, start = [], [], 0
        pieces = {tuple(p.tokens.tolist()): p for p in (
            *map(data.encoder.fact, story.facts), *map(data.encoder.question, story.questions))}
        names = {tuple(data.encoder.fact(fact).tokens.tolist()): fact for fact in story.facts}
        tokens = sample.tokens.tolist()
        while start < len(tokens):
            found = next((ids for ids in pieces if tuple(tokens[start:start + len(ids)]) == ids),
                         None)
            if found in names:
                told.append(names[found])
                cut += start // T != (start + len(found) - 1) // T
            elif found:
                answers.append(1)
                begin = pieces[found].answer
                assert solve("qa1", told, sentences(data, found[:begin])) == sentences(
                    data, found[begin:])
            start += len(found) if found else 1
        asked += len(answers)
    assert cut > 10 and asked > 60


def share_with_a_piece_across_a_border(data):
    """The share of samples in which a fact, or a question with its answer, crosses a border."""
    crossing = []
    for story, sample in samples(data, 6, 400):
        known = {piece.tokens.tobytes() for piece in (
            *map(data.encoder.fact, story.facts), *map(data.encoder.question, story.questions))}
        sizes = {len(ids) // 4 for ids in known}
        crossing.append(any(
            sample.tokens[start:start + size].tobytes() in known
            for border in range(T, len(sample.tokens), T) for size in sizes
            for start in range(border - size + 1, border)))
    return np.mean(crossing)


def test_half_of_the_samples_are_shifted_against_the_segment_borders(data, monkeypatch):
    """Pieces cross borders only in shifted samples, and in a fixed share of those."""
    share = share_with_a_piece_across_a_border(data)
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    assert share_with_a_piece_across_a_border(data) == 0
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 1.0)
    assert 0.4 < share / share_with_a_piece_across_a_border(data) < 0.6


def share_of_segments_with_a_question_first(data):
    first = []
    for story, sample in samples(data, 6, 400):
        known = [piece.tokens for piece in map(data.encoder.question, story.questions)]
        for tokens, answer in zip(sample.tokens.reshape(6, T), sample.answer.reshape(6, T),
                                  strict=True):
            if answer.any():
                first.append(any(tokens[:len(ids)].tolist() == ids.tolist() for ids in known))
    return np.mean(first)


def test_half_of_the_segments_begin_with_their_questions(data, monkeypatch):
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    share = share_of_segments_with_a_question_first(data)
    monkeypatch.setattr(deferred, "QUESTIONS_FIRST_SHARE", 1.0)
    assert share_of_segments_with_a_question_first(data) == 1
    monkeypatch.setattr(deferred, "QUESTIONS_FIRST_SHARE", 0.0)
    by_chance = share_of_segments_with_a_question_first(data)
    assert 0.4 < (share - by_chance) / (1 - by_chance) < 0.6


def test_a_segment_has_the_facts_of_up_to_two_points(data, monkeypatch):
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    counts = {sum(sentences(data, tokens).count(fact) for fact in set(story.facts))
              for story, sample in samples(data, 6, 60) for tokens in sample.tokens.reshape(6, T)}
    assert counts == {0, 2, 4}  # each point of this task has two facts


def test_facts_stay_in_order(data):
    checked = 0
    for story, sample in samples(data, 8, 40):
        text = sentences(data, sample.tokens)
        places = [text.find(fact) for fact in dict.fromkeys(story.facts) if fact in text]
        assert len(places) >= 2 and places == sorted(places)
        checked += len(places) > 2
    assert checked > 10


@pytest.mark.parametrize("num_segments", [2, 3])
def test_no_fact_is_told_that_cannot_be_asked_for(data, num_segments, monkeypatch):
    """The last segment tells nothing, so that its room is for questions."""
    monkeypatch.setattr(deferred, "SHIFTED_SHARE", 0.0)
    for story, sample in samples(data, num_segments, 40):
        text = sentences(data, sample.tokens[-T:])
        assert not any(fact in text for fact in story.facts)


def test_facts_that_do_not_fit_a_segment_give_none(data):
    rng = np.random.default_rng(0)
    points = deferred.points_of(data.sources[0].draw(rng, 2), data.encoder)
    assert deferred.mix(points, 3, 8, data.background, rng) is None


def test_pipeline_uses_it_for_more_than_one_segment(data):
    config = DataConfig(deferred=True, vary_length=False, points_per_segment=0.7,
                        questions_per_point=4, curriculum=((0, 1), (1, 4)))
    source = batches.BabilongBatches(batches.SampleMaker(config, data, T), 0, 16, 2)
    one, four = source[0], source[1]
    assert one.tokens_BL.shape == (16, T) and four.tokens_BL.shape == (16, 4 * T)
    assert (one.loss_weight_BL.sum(axis=1) > 0).all()
    assert (four.loss_weight_BL[:, :T - 1] == 0).all(), "the first segment asks nothing"
    scattered = dataclasses.replace(config, deferred=False)
    source = batches.BabilongBatches(batches.SampleMaker(scattered, data, T), 0, 16, 2)
    assert (source[1].loss_weight_BL[:, :T - 1] > 0).any()
