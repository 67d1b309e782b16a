"""Questions asked by their place in a bAbI file, as BABILong's own test sets name them."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.prompting import FineTuned
from lm2_jax.data.babilong.samples import draw
from lm2_jax.eval.babilong import cells

DATA = os.environ.get("LM2_TEST_DATA")
STORIES = """1 Mary went to the kitchen.
2 John moved to the hallway.
3 Where is Mary?\tkitchen\t1
4 Mary went to the garden.
5 Where is Mary?\tgarden\t4
6 Where is John?\thallway\t2
1 Sandra moved to the office.
2 Where is Sandra?\toffice\t1
"""
ANSWERS = ["kitchen", "garden", "hallway", "office"]  # of the questions in their order
FACTS = [2, 3, 3, 1]


@cache
def tokens():
    return corpus.make_tokenizer(DataConfig(background_sentences=200), 0)


def folder_of(tmp_path, indices, split="test"):
    tmp_path.joinpath(f"qa1_single-supporting-fact_{split}.txt").write_text(STORIES)
    text = indices if isinstance(indices, str) else json.dumps(indices)
    tmp_path.joinpath("indices.json").write_text(text)
    return tmp_path


def held_out(folder, tasks=("qa1",), **changes):
    values = dict(tasks=tasks, babi=str(folder), indices=str(folder / "indices.json"),
                  num_samples=1) | changes
    return corpus.held_out(Config(data=DataConfig(background_sentences=200),
                                  eval=EvalConfig(**values)), tokens())


def told(prompt):
    """The facts and the question, of a prompt without prose."""
    return tokens().decode(prompt.tokens[:]).strip()


@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [3, 1], [2, 2, 0]])
@pytest.mark.parametrize("length", ["0k", "100"])
def test_sample_i_asks_question_indices_i(tmp_path, indices, length):
    drawn_from = held_out(folder_of(tmp_path, {"qa1": indices}), num_samples=len(indices))
    config = Config(model=ModelConfig(), eval=EvalConfig(lengths=(length,)))
    found = cells(config, drawn_from, FineTuned(drawn_from.encoder), len(indices))["qa1", length]
    assert [prompt.target for prompt in found] == [ANSWERS[index] for index in indices]
    for prompt, index in zip(found, indices, strict=True):
        assert prompt.question in ("Where is Mary?", "Where is John?", "Where is Sandra?")
        if length == "0k":
            assert told(prompt).count(".") == FACTS[index]
        else:
            assert len(prompt.tokens) == 100 - 2


def test_a_byte_order_mark_is_skipped(tmp_path):
    drawn_from = held_out(folder_of(tmp_path, "\ufeff" + json.dumps({"qa1": [3]})))
    (story, number), = drawn_from.sources[0].selected
    assert story.questions[number].answer == ANSWERS[3]


def test_tasks_without_indices_are_drawn_as_without_the_file(tmp_path):
    folder = folder_of(tmp_path, {"qa2": [0], "qa3": [0]})
    config = Config(model=ModelConfig(), eval=EvalConfig(lengths=("0k", "100")))
    asked = [cells(config, drawn_from, FineTuned(drawn_from.encoder), 9) for drawn_from in (
        held_out(folder, num_samples=9), held_out(folder, num_samples=9, indices=""))]
    for cell, other in zip(*(found.values() for found in asked), strict=True):
        assert [p.tokens[:].tolist() for p in cell] == [p.tokens[:].tolist() for p in other]
        assert len({p.question for p in cell}) > 1


def test_facts_too_many_for_the_length_are_the_whole_context(tmp_path):
    drawn_from = held_out(folder_of(tmp_path, {"qa1": [1, 3]}), num_samples=2)
    source, = drawn_from.sources
    prompts = {length: [draw(source, length, index, EvalConfig(), FineTuned(drawn_from.encoder),
                             drawn_from.background, 32) for index in range(2)]
               for length in ("0k", "16")}
    np.testing.assert_array_equal(prompts["16"][0].tokens[:], prompts["0k"][0].tokens[:])
    assert len(prompts["16"][1].tokens) == 16 - 2 > len(prompts["0k"][1].tokens)
    with pytest.raises(ValueError, match="no story of qa1 that eval.indices names for sample 0 "
                                         "fits a sample of 16"):
        draw(source, "16", 0, EvalConfig(min_distance=1), FineTuned(drawn_from.encoder),
             drawn_from.background, 8)


@pytest.mark.parametrize(("indices", "changes", "said"), [
    ({"qa1": [0, 4]}, {}, r"indices.json: qa1 has index 4, but .*_test.txt has questions 0 to 3"),
    ({"qa1": [0, -1]}, {}, "indices.json: qa1 must have a list of whole numbers from 0"),
    ({"qa1": [0, True]}, {}, "indices.json: qa1 must have a list of whole numbers"),
    ({"qa1": []}, {}, "indices.json: qa1 must have a list of whole numbers"),
    ([0, 1], {}, "indices.json must hold an object"),
    ("{", {}, "indices.json is not JSON"),
    ({"qa1": [0, 1]}, {"num_samples": 3}, "3 samples .*indices.json has 2 indices of qa1; set "
                                          "eval.num_samples to 2"),
    ({"qa1": [0, 1]}, {"during_training": 3}, "3 samples .*indices.json has 2 indices of qa1"),
    ({"qa1": [0]}, {"babi": ""}, "eval.indices are places in bAbI files: set eval.babi"),
    ({"qa1": [0]}, {"indices": "nowhere.json"}, "no file of indices nowhere.json")])
def test_what_cannot_be_asked_is_told_in_one_line(tmp_path, indices, changes, said):
    folder = folder_of(tmp_path, indices)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        held_out(folder, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")
def test_the_benchmarks_own_indices_are_those_lines_of_the_files():
    path, babi = Path(DATA, "babilong/test_100_idxs.json"), Path(DATA, "babi/en-10k")
    tasks = tuple(json.loads(path.read_text()))
    drawn_from = held_out(babi, tasks, indices=str(path), num_samples=100)
    for source in drawn_from.sources:
        lines = next(babi.glob(f"{source.task}_*_test.txt")).read_text().splitlines()
        questions = [line.split("\t")[:2] for line in lines if "\t" in line]
        asked = [story.questions[number] for story, number in source.selected]
        assert [[q.text, q.answer] for q in asked] == [
            [questions[i][0].partition(" ")[2].strip(), questions[i][1]]
            for i in json.loads(path.read_text())[source.task]]
