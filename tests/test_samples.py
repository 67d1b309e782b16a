"""Evaluation samples, drawn and read."""

import dataclasses
import gzip
import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from solver import solve

from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig, parse_length
from lm2_jax.data.babi.story import Question
from lm2_jax.data.babilong import corpus, prompting
from lm2_jax.data.babilong.prompting import FineTuned
from lm2_jax.data.babilong.samples import draw, read_file
from lm2_jax.eval import rag
from lm2_jax.eval.babilong import cells

DATA = os.environ.get("LM2_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")
TASKS = ("qa1", "qa2", "qa4", "qa5", "qa8")
LENGTHS = ("0k", "150", "192", "1k")


@cache
def held_out(babi="", background="generated"):
    data = DataConfig(tasks=TASKS, babi=babi, background=background, background_sentences=400,
                      tokenizer_vocab_size=1024)
    return corpus.held_out(Config(data=data), corpus.make_tokenizer(data, 0))


def source_of(task, drawn_from):
    return next(source for source in drawn_from.sources if source.task == task)


def sample_of(task, length, index, segment_length=32, drawn_from=None, **changes):
    drawn_from = drawn_from or held_out()
    return draw(source_of(task, drawn_from), length, index, EvalConfig(**changes),
                FineTuned(drawn_from.encoder), drawn_from.background, segment_length)


def facts_in(tokens, encoder):
    """(place, fact) of every fact that stands in the tokens; facts are known from drawing."""
    known = {piece.tokens.tobytes(): text for text, piece in encoder.facts.items()}
    found = {(start, known.get(tokens[start:start + size].tobytes()))
             for size in {len(piece.tokens) for piece in encoder.facts.values()}
             for start in range(len(tokens) - size + 1)}
    return sorted((start, text) for start, text in found if text)


def question_piece(prompt, encoder):
    return encoder.question(Question(prompt.question, prompt.target, (), 0))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_prompts_end_with_the_answer_mark_and_have_the_length(task, length):
    encoder, t = held_out().encoder, held_out().encoder.tokenizer
    for index in range(6):
        prompt = sample_of(task, length, index)
        assert (prompt.task, prompt.length) == (task, length)
        assert prompt.tokens[:].dtype == np.int32 and prompt.tokens[:][-1] == t.answer_id
        assert not np.isin(prompt.tokens[:-1], [t.answer_id, t.end_id, t.pad_id]).any()
        asked = question_piece(prompt, encoder)
        np.testing.assert_array_equal(prompt.tokens[-asked.answer:], asked.tokens[:asked.answer])
        assert t.decode(asked.tokens[asked.answer:]).strip() == prompt.target != ""
        whole = len(prompt.tokens) + len(asked.tokens) - asked.answer
        facts = [fact for _, fact in facts_in(prompt.tokens[:], encoder)]
        told = sum(len(encoder.fact(fact).tokens) for fact in facts)
        assert whole == (parse_length(length) or told + len(asked.tokens))
        assert solve(task, facts, prompt.question) == prompt.target


def test_a_sample_is_a_function_of_its_arguments():
    prompts = [sample_of("qa2", "192", index) for index in range(10)]
    fresh = corpus.held_out(Config(data=DataConfig(
        tasks=("qa2",), background_sentences=400)), held_out().encoder.tokenizer)
    for index in reversed(range(10)):
        again = sample_of("qa2", "192", index, drawn_from=fresh)
        np.testing.assert_array_equal(again.tokens[:], prompts[index].tokens[:])
        assert again.target == prompts[index].target
    others = [sample_of("qa2", "192", index, seed=2) for index in range(10)] + [
        sample_of("qa1", "192", index) for index in range(10)]
    assert len({p.tokens[:].tobytes() for p in [*prompts, *others]}) == 30
    contexts = {sample_of("qa2", length, 0).tokens[:20].tobytes() for length in LENGTHS}
    assert len(contexts) == len(LENGTHS)


def test_any_question_of_a_story_may_be_asked():
    told = [len(facts_in(sample_of("qa1", "0k", index).tokens[:], held_out().encoder))
            for index in range(60)]
    assert set(told) == {2, 4, 6, 8, 10}


@pytest.mark.parametrize("segment_length", [32, 31])
@pytest.mark.parametrize("distance", [0, 1, 3])
def test_facts_end_whole_segments_before_the_question(distance, segment_length):
    encoder, gaps = held_out().encoder, []
    for length in range(248, 262):  # the question at every place of a segment
        for index in range(4):
            prompt = sample_of("qa1", str(length), index, segment_length, min_distance=distance)
            last, fact = facts_in(prompt.tokens[:], encoder)[-1]
            end = last + len(encoder.fact(fact).tokens)
            asked_at = len(prompt.tokens) - question_piece(prompt, encoder).answer
            gaps.append(asked_at // segment_length - -(-end // segment_length))
    # Whole segments between; -1 where the last fact ends in the question's segment.
    assert min(gaps) == (distance if distance else -1) and max(gaps) > distance


@pytest.mark.parametrize(("length", "distance"), [("40", 1), ("64", 1), ("70", 2), ("12", 0)])
def test_a_length_without_room_is_told_in_one_line(length, distance):
    with pytest.raises(ValueError, match=rf"no story of qa1 .* of {length} .*eval.min_distance "
                                         rf"{distance}.*longer eval.lengths") as error:
        sample_of("qa1", length, 0, min_distance=distance)
    assert "\n" not in str(error.value)


def test_a_target_outside_the_vocabulary_is_refused():
    data = DataConfig(background_sentences=50)
    other = corpus.held_out(Config(data=DataConfig(tasks=("qa10",), background_sentences=50)),
                            corpus.make_tokenizer(data, 0))
    with pytest.raises(ValueError, match="^the tokenizer does not know .* '(yes|no|maybe)'"):
        sample_of("qa10", "0k", 0, drawn_from=other)


@needs_data
def test_real_test_stories_in_real_books_agree_with_the_solver():
    drawn_from = held_out(str(Path(DATA, "babi/en-10k")),
                          str(Path(DATA, "books/test/christmas_carol.txt")))
    encoder = drawn_from.encoder
    for task in TASKS:
        for index in range(5):
            prompt = sample_of(task, "1k", index, drawn_from=drawn_from)
            facts = [fact for _, fact in facts_in(prompt.tokens[:], encoder)]
            assert solve(task, facts, prompt.question) == prompt.target
            asked = question_piece(prompt, encoder)
            assert len(prompt.tokens) == 1024 - len(asked.tokens) + asked.answer


# Sample files.

SAMPLE = {"task": "qa1", "length": "1k", "input": "Mary went to the kitchen. It was dark.\n\n"
          "John moved to the hallway.", "question": " Where is Mary? ", "target": " kitchen"}


def written(path, lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.jsonl.gz"])
def test_files_are_read_sentence_by_sentence(tmp_path, name):
    encoder = held_out().encoder
    lists = SAMPLE | {"task": "qa8", "question": "What is Mary carrying?", "target": "apple,milk"}
    first, second = read_file(written(tmp_path / name, [SAMPLE, "\n", lists]), FineTuned(encoder))
    assert (first.task, first.length, first.question) == ("qa1", "1k", "Where is Mary?")
    assert (first.target, second.target) == ("kitchen", "apple,milk")
    sentences = ["Mary went to the kitchen.", "It was dark.", "John moved to the hallway."]
    expected = [id for text in (*sentences, "Where is Mary?") for id in encoder.text(text)]
    assert first.tokens[:].tolist() == [*expected, encoder.tokenizer.answer_id]
    assert first.tokens[:].dtype == np.int32


def test_a_drawn_sample_comes_back_from_a_file(tmp_path):
    t = held_out().encoder.tokenizer
    prompts = [sample_of("qa2", "0k", index) for index in range(10)]
    lines = [{"task": p.task, "length": p.length, "question": p.question, "target": p.target,
              "input": t.decode(p.tokens[:]).strip().removesuffix(p.question)} for p in prompts]
    path = written(tmp_path / "samples.jsonl", lines)
    for drawn, back in zip(prompts, read_file(path, FineTuned(held_out().encoder)), strict=True):
        np.testing.assert_array_equal(drawn.tokens[:], back.tokens[:])
        assert (drawn.question, drawn.target) == (back.question, back.target)


@cache
def held_out_bpe():
    data = DataConfig(tasks=("qa1", "qa7"), tokenizer="bpe", tokenizer_vocab_size=400,
                      background_sentences=300)
    return corpus.held_out(Config(data=data), corpus.make_tokenizer(data, 0))


@pytest.mark.parametrize(("style", "distance"), [
    ("fine_tuned", 0), ("instruct", 0), ("instruct", 1)])
@pytest.mark.parametrize("retrieve", [0, 3])
def test_one_sample_is_one_prompt_drawn_or_read(tmp_path, monkeypatch, style, distance, retrieve):
    t = held_out_bpe().encoder.tokenizer
    e = EvalConfig(prompt_style=style, lengths=("0k", "500", "1k"), min_distance=distance,
                   retrieve=retrieve)
    way = prompting.make(e, held_out_bpe().encoder)
    drawn = cells(Config(eval=e), held_out_bpe(), way, 12)
    with monkeypatch.context() as patch:  # the whole contexts
        patch.setattr(rag, "retrieve", lambda prompt, *_: prompt)
        found = cells(Config(eval=e), held_out_bpe(), way, 12)
    lines = [{"task": p.task, "length": p.length, "question": p.question, "target": p.target,
              "input": t.decode(p.tokens.parts[1][:])} for cell in found.values() for p in cell]
    path = written(tmp_path / "samples.jsonl", lines)
    read = cells(Config(eval=dataclasses.replace(e, samples=str(path))), held_out_bpe(), way, 12)
    assert [*drawn] == [*read]
    for one, other in zip(sum(drawn.values(), []), sum(read.values(), []), strict=True):
        assert one.tokens[:].tolist() == other.tokens[:].tolist()
        if style == "instruct":
            assert re.search(r"<context>\n\S", t.decode(one.tokens[:]))


@pytest.mark.parametrize(("line", "said"), [
    ('{"task": "qa1",\n', r":2 is not JSON"),
    ("[1]\n", r":2 has no text under task, length, input, question, target"),
    (SAMPLE | {"target": 3}, r":2 has no text under target"),
    (SAMPLE | {"target": " "}, r":2 has no text under target"),
    ({k: SAMPLE[k] for k in ("task", "input", "target")}, r":2 has no text under length, question"),
    (SAMPLE | {"target": "zeppelin"}, r":2: the tokenizer does not know .* 'zeppelin'")])
def test_bad_lines_are_named(tmp_path, line, said):
    path = written(tmp_path / "samples.jsonl", [SAMPLE, line])
    with pytest.raises(ValueError, match=f"samples.jsonl{said}") as error:
        read_file(path, FineTuned(held_out().encoder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.jsonl", b"\n\n", "a.jsonl has no samples"),
    ("a.jsonl.gz", b"{}", "a.jsonl.gz is not a whole gzip file"),
    ("a.jsonl.gz", gzip.compress(b"{}\n" * 9, mtime=0)[:-12], "a.jsonl.gz is not a whole gzip"),
    ("a.jsonl", b"\xff\xfe{}", "a.jsonl:1 is not readable as UTF-8")])
def test_unreadable_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_file(tmp_path / name, FineTuned(held_out().encoder))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sample file or folder .*b.jsonl"):
        read_file(tmp_path / "b.jsonl", FineTuned(held_out().encoder))


def test_cells_are_the_drawn_samples_or_those_of_the_file(tmp_path):
    drawn_from = held_out()
    model = ModelConfig(segment_length=32)
    config = Config(model=model, eval=EvalConfig(lengths=("0k", "96")))
    prompting = FineTuned(drawn_from.encoder)
    found = cells(config, drawn_from, prompting, 3)
    assert list(found) == [(task, length) for task in TASKS for length in ("0k", "96")]
    for (task, length), prompts in found.items():
        for index, prompt in enumerate(prompts):
            np.testing.assert_array_equal(prompt.tokens[:],
                                          sample_of(task, length, index).tokens[:])
    path = written(tmp_path / "s.jsonl", [SAMPLE, SAMPLE | {"length": "2k"}, SAMPLE])
    found = cells(Config(model=model, eval=EvalConfig(samples=str(path))), drawn_from,
                  prompting, 3)
    assert {key: len(prompts) for key, prompts in found.items()} == {
        ("qa1", "1k"): 2, ("qa1", "2k"): 1}
