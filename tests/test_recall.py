"""Key-value recall (kv): its stories, its answers, and its samples."""

import re
from collections import Counter

import jax
import pytest
from solver import solve
from test_simulator import check_form

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.data.babi import files
from lm2_jax.data.babi.simulator import recall
from lm2_jax.data.babi.simulator.tasks import simulate
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.eval import metrics
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator

MESH = partition.make_mesh({}, jax.devices()[:1])


def story(index, **options):
    return simulate("kv", 1, index, **options)


@pytest.mark.parametrize("points", [1, 2, 12, 24, 40])
def test_each_key_is_told_once_and_any_of_them_is_asked(points):
    quarters = Counter()
    for index in range(40):
        one = story(index, points=points, per_point=3)
        at = check_form(one)
        assert len(at) == min(points, 24) and len(one.facts) == 2 * len(at)
        keys = {re.match(r"The password of (.*) is", fact)[1] for fact in one.facts}
        assert len(keys) == len(one.facts)
        for question in one.questions:
            told = one.facts[:question.num_facts]
            assert solve("kv", told, question.text) == question.answer
            assert solve("kv", [told[i] for i in question.support], question.text) == (
                question.answer)
            quarters[4 * question.support[0] // question.num_facts] += 1
        assert len({(q.num_facts, q.text) for q in one.questions}) == len(one.questions)
    if points == 24:  # a question about the first quarter of the facts is as likely as any
        assert min(quarters[i] for i in range(4)) > 0.2 * quarters.total()


def test_a_story_is_a_function_of_its_arguments_and_begins_as_a_longer_one():
    assert story(3) == story(3) != story(4)
    short, long = story(3, points=4), story(3, points=9)
    assert long.facts[:8] == short.facts and long.questions[:4] == short.questions
    assert story(3, points=4, per_point=5).facts == short.facts
    assert story(3, persons=None).facts == story(3).facts


def test_answers_are_labels_and_equally_frequent():
    answers = Counter(q.answer for index in range(500) for q in story(index).questions)
    assert set(answers) == set(recall.VALUES) == set(metrics.LABELS["kv"])
    assert max(answers.values()) < 0.12 * answers.total()
    for answer in answers:
        question = "What is the password of the red box?"
        assert metrics.babilong_correct("kv", answer, f"It is {answer}.", question)
        assert not metrics.babilong_correct("kv", answer, "", question)


def test_samples_of_an_evaluation_hold_the_facts_and_ask_for_one():
    config = lm2.load_config("tiny", {"data.tasks": "qa1,kv", "eval.tasks": "kv,qa1",
                                      "eval.lengths": "0k,256", "eval.num_samples": "4",
                                      "data.background_sentences": "500"})
    tokens = corpus.make_tokenizer(config.data, 0)
    found = BabilongEvaluator(config, tokens, MESH).prompts(4)
    assert list(found) == [("kv", "0k"), ("kv", "256"), ("qa1", "0k"), ("qa1", "256")]
    for prompt in found["kv", "256"]:
        text = tokens.decode(prompt.tokens[:])
        facts = re.findall(r"The password of the \w+ \w+ is \w+\.", text)
        assert facts and solve("kv", facts, prompt.question) == prompt.target


def test_there_are_no_files_of_it(tmp_path):
    with pytest.raises(UserError, match="kv has no file"):
        files.find_file(tmp_path, "kv", "train")
