"""Each part of an evaluation's identity is held: answers are resumed under an equal one alone."""

import contextlib
import dataclasses
import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm2_jax import partition
from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from lm2_jax.data import tokenizer
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babilong import corpus
from lm2_jax.eval import identity
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.eval.journal import Journal

SAMPLE = {"task": "qa1", "length": "1k", "input": "Mary went to the kitchen. It was dark.",
          "question": "Where is Mary?", "target": "kitchen"}
PARAMS = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4, jnp.bfloat16)}


@cache
def tokens(size=256):
    return corpus.make_tokenizer(DataConfig(background_sentences=200, tokenizer_vocab_size=size), 0)


def identity_of(folder, *, step=7, params=PARAMS, vocabulary=256, sample=SAMPLE, seed=0,
                model=None, data=None, evaluation=None):
    path = folder / "samples.jsonl"
    path.write_text(json.dumps(sample) + "\n")
    config = Config(seed=seed, model=ModelConfig(**model or {}),
                    data=DataConfig(background_sentences=200, **data or {}),
                    eval=EvalConfig(samples=str(path), **evaluation or {}))
    mesh = partition.make_mesh({"data": 1}, jax.devices()[:1])
    return BabilongEvaluator(config, tokens(vocabulary), mesh).identity(params, step)


CHANGES = {
    "step": {"step": 8}, "seed": {"seed": 1}, "model": {"model": {"num_layers": 4}},
    "data": {"data": {"persons": 2}}, "eval": {"evaluation": {"batch_size": 3}},
    "weights": {"params": PARAMS | {"b": PARAMS["b"].at[2].set(2)}},
    "tokenizer": {"vocabulary": 200},
    "prompts": {"sample": SAMPLE | {"input": "Mary went to the garden. It was dark."}}}


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_of_it_counts(tmp_path, part):
    own, other = identity_of(tmp_path), identity_of(tmp_path, **CHANGES[part])
    assert own == identity_of(tmp_path)
    # That the tokenizer is another one is also seen in the prompts.
    assert {name for name in own if own[name] != other[name]} - {"prompts"} == {part} - {"prompts"}
    assert own != other
    path = tmp_path / "journal.jsonl"
    for found, resumes in ((own, False), (own, True), (other, False)):
        with contextlib.suppress(InterruptedError), Journal(path, found) as journal:
            assert journal.resumes == resumes
            journal.add(("qa1", "1k", "carried"), ["kitchen"])
            raise InterruptedError


def test_the_code_counts(tmp_path, monkeypatch):
    own = identity_of(tmp_path)
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(identity, "_PACKAGE", tmp_path / "package")
    found = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (tmp_path / "package/__init__.py").write_text(text)
        identity.code_digest.cache_clear()
        found.append(identity_of(tmp_path)["code"])
    identity.code_digest.cache_clear()
    assert own["code"] not in found and found[0] == found[2] != found[1]


@pytest.mark.parametrize("field", ["question", "target", "task", "length"])
def test_questions_targets_and_cells_count(tmp_path, field):
    other = {"question": "Where was Mary?", "target": "garden", "task": "qa2", "length": "2k"}
    own = identity_of(tmp_path)
    found = identity_of(tmp_path, sample=SAMPLE | {field: other[field]})
    assert own["prompts"] != found["prompts"]


def test_every_token_of_a_long_context_counts(monkeypatch):
    monkeypatch.setattr(identity, "_CHUNK", 7)

    @dataclasses.dataclass
    class Prompt:
        tokens: np.ndarray
        question: str = "?"
        target: str = "!"

    found = set()
    for place in range(20):
        context = np.zeros(20, np.int32)
        context[place] = 1
        found.add(identity.prompts_digest({("qa1", "1k"): [Prompt(context)]}))
    # The benchmark's metric reads the question's text, whatever its tokens are.
    for other in (Prompt(context, question="??"), Prompt(context, target="!!")):
        found.add(identity.prompts_digest({("qa1", "1k"): [other]}))
    assert len(found) == 22


@pytest.mark.parametrize("change", [
    lambda a, b: (a.at[1, 2].set(a[1, 2] + 1e-6), b), lambda a, b: (a[::-1], b),
    lambda a, b: (a.reshape(3, 2), b), lambda a, b: (b, a), lambda a, b: (a, b.astype(jnp.float16)),
    lambda a, b: (a.at[0, 0].set(-0.0), b)])
def test_every_weight_counts(change):
    a, b = PARAMS["a"], PARAMS["b"]
    assert identity.weights_digest([a, b]) == identity.weights_digest([a + 0, b + 0])
    assert identity.weights_digest([a, b]) != identity.weights_digest([*change(a, b)])


def test_weights_count_as_they_are_however_they_are_laid_out():
    mesh = partition.make_mesh({"fsdp": 8})
    x = jax.random.normal(jax.random.key(0), (16, 8))
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
        assert identity.weights_digest([spread]) == identity.weights_digest([x])


def test_stories_are_those_of_the_file_as_it_is_now(tmp_path):
    """Within one process too, where files that were parsed are kept."""
    path, told = tmp_path / "qa1_single_test.txt", []
    for place in ("garden", "office"):
        path.write_text(f"1 Mary went to the {place}.\n2 Where is Mary? \t{place}\t1\n")
        source = story_sources.from_files("qa1", str(tmp_path), "test")
        told.append(source.draw(np.random.default_rng(0)).questions[0].answer)
    assert told == ["garden", "office"]


def test_a_tokenizer_is_known_by_what_it_says():
    assert tokens(200).digest != tokens(256).digest
    assert isinstance(tokens(), tokenizer.Tokenizer)
