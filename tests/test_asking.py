"""Prompts in the benchmark's template, and our wording of them."""

import json
import re
from functools import cache

import numpy as np
import pytest
from solver import solve

from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from lm2_jax.data.babilong import corpus, prompting, prompts
from lm2_jax.data.babilong.samples import prompt_of
from lm2_jax.eval import metrics
from lm2_jax.eval.babilong import cells

SWITCHES = ("use_instruction", "use_examples", "use_post_prompt")
TEMPLATE = ("{instruction}\n\n{examples}\n\n{post_prompt}\n\n<context>\n{context}\n</context>\n\n"
            "Question: {question}")  # the benchmark's
SAMPLE = {"task": "qa1", "length": "1k", "question": "Where is Mary? ", "target": "kitchen",
          "input": "Mary went to the kitchen. It was dark. John moved to the hallway."}


@cache
def held_out():
    data = DataConfig(tasks=("qa1", "qa7"), tokenizer="bpe", tokenizer_vocab_size=400,
                      background_sentences=300)
    return corpus.held_out(Config(data=data), corpus.make_tokenizer(data, 0))


def prompted(**changes):
    return prompting.make(EvalConfig(prompt_style="instruct", **changes), held_out().encoder)


def text(tokens):
    return held_out().encoder.tokenizer.decode(tokens)


@pytest.mark.parametrize("used", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_a_prompt_is_the_template_filled_in(used):
    """With the context as it is, its line breaks and blanks too, but for those at its ends."""
    switches = dict(zip(SWITCHES, map(bool, used), strict=True))
    context = "Mary went to  the\nkitchen.\n\nIt was dark."
    prompt = prompt_of(SAMPLE | {"input": f" {context} \n"}, "", prompted(**switches))
    default = prompts.default_prompts()["qa1"]
    parts = {name.removeprefix("use_"): getattr(default, name.removeprefix("use_")) if on else ""
             for name, on in switches.items()}
    expected = TEMPLATE.format(context=context, question="Where is Mary?", **parts)
    assert text(prompt.tokens[:]) == expected.strip()
    assert prompt.tokens[:].dtype == np.int32
    assert (prompt.question, prompt.target) == ("Where is Mary?", "kitchen")


@pytest.mark.parametrize("retrieve", [0, 3])
def test_the_context_is_tokenized_as_a_whole_or_in_sentences_to_choose_from(retrieve):
    way, encoder = prompted(retrieve=retrieve), held_out().encoder
    tokens = prompt_of(SAMPLE, "", way).tokens[:].tolist()
    context = [id for sentence in ("Mary went to the kitchen.", "It was dark.",
                                   "John moved to the hallway.") for id in encoder.text(sentence)] \
        if retrieve else encoder.tokenizer.encode(SAMPLE["input"])
    start = len(way.prefix("qa1"))
    assert tokens[start:start + len(context)] == context
    assert tokens[start + len(context):] == way.suffix("qa1", "Where is Mary?").tolist()


@pytest.mark.parametrize("distance", [0, 2])
def test_the_context_has_the_length_less_the_benchmarks_300_tokens(distance):
    e = EvalConfig(prompt_style="instruct", lengths=("1k", "0k"), min_distance=distance)
    way, encoder = prompted(), held_out().encoder
    config = Config(model=ModelConfig(segment_length=32), eval=e)
    found = cells(config, held_out(), way, 4)
    for (task, length), prompt in [(key, p) for key, cell in found.items() for p in cell]:
        before, behind = way.prefix(task).tolist(), way.suffix(task, prompt.question).tolist()
        tokens = prompt.tokens[:].tolist()
        assert tokens[:len(before)] == before and tokens[-len(behind):] == behind
        assert encoder.tokenizer.answer_id not in tokens
        context = tokens[len(before):len(tokens) - len(behind)]
        told = [(start, len(fact)) for piece in [*encoder.facts.values()]
                for start in range(len(context))
                for fact in [(piece.tokens if start else way.opening(piece.tokens)).tolist()]
                if context[start:start + len(fact)] == fact]
        if length == "1k":
            assert len(context) == 1024 - 300
            gap = (len(tokens) - len(behind)) // 32 - (len(before) + max(map(sum, told))) / 32
            assert gap >= distance or distance == 0
        else:
            assert len(context) == sum(size for _, size in told)


def test_tuned_is_context_question_mark():
    way, encoder = prompting.make(EvalConfig(), held_out().encoder), held_out().encoder
    tokens = prompt_of(SAMPLE, "", way).tokens[:].tolist()
    question = encoder.text("Where is Mary?")
    assert tokens[-len(question) - 1:] == [*question, encoder.tokenizer.answer_id]
    assert len(way.prefix("qa1")) == 0
    prompt = way.prompt("qa1")
    assert not (prompt.instruction or prompt.examples or prompt.post_prompt)


@pytest.mark.parametrize("task", prompts.default_prompts())
def test_our_examples_are_right_and_answered_as_asked(task):
    prompt = prompts.default_prompts()[task]
    assert prompt.instruction and prompt.post_prompt
    assert "{" not in prompt.instruction + prompt.post_prompt
    example = r"<example>\n(.+?) (\S[^.?]+\?)\nAnswer: (.+)\n</example>"
    examples = re.findall(example, prompt.examples)
    assert len(examples) >= 2
    assert re.fullmatch(rf"{example}(\n{example})+", prompt.examples)
    for told, question, answer in examples:
        facts = re.findall(r"[^.?]+[.?]", told)
        assert solve(task, [fact.strip() for fact in facts], question) == answer
        assert metrics.babilong_correct(task, answer, answer, question) or answer == "none"


def test_every_task_has_a_default_prompt():
    assert list(prompts.default_prompts()) == [
        *(f"qa{number}" for number in range(1, 21)), "kv"]


OWN = {"instruction": "Look {here}.", "examples": "", "post_prompt": "One word."}


def test_own_words_take_the_place_of_ours(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"qa1": OWN}))
    way = prompted(prompts=str(path))
    assert text(way.prefix("qa1")) == "Look {here}.\n\n\n\nOne word.\n\n<context>\n"
    assert prompted(prompts=str(path), use_post_prompt=False).prompt("qa1").post_prompt == ""
    with pytest.raises(ValueError, match=r"no prompt for qa2 \(eval.prompts\); there are qa1"):
        way.prefix("qa2")


def test_a_byte_order_mark_of_own_words_is_skipped(tmp_path):
    path = tmp_path / "own.json"
    path.write_text("\ufeff" + json.dumps({"qa1": OWN}), "utf-8")
    assert prompted(prompts=str(path)).prompt("qa1").post_prompt == OWN["post_prompt"]


@pytest.mark.parametrize(("content", "said"), [
    ("{", "is not JSON"), ("[]", "must hold an object"),
    ({"qa1": {"instruction": "a", "examples": "b"}}, "qa1 must have texts under instruction"),
    ({"qa1": OWN | {"examples": 3}}, "qa1 must have texts"), ({"qa3": "text"}, "qa3 must have"),
    ({"qa1": OWN | {"postprompt": "a"}}, "qa1 must have texts .* no other")])
def test_bad_words_are_told_in_one_line(tmp_path, content, said):
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=f"own.json.*{said}") as error:
        prompted(prompts=str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no prompt file .*none.json"):
        prompted(prompts=str(tmp_path / "none.json"))
