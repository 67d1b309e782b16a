"""Configs: files, overrides from the command line, and what is refused, in one line each."""

import ast
import dataclasses
import json
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lm2_jax import config_file
from lm2_jax.config import Config, ModelConfig, RopeScaling, parse_length, with_vocab_size
from lm2_jax.config_file import differences, from_dict, load_config, to_dict
from lm2_jax.model.lm import LanguageModel, init_state

FOLDER = Path(__file__).parents[1] / "configs"
TINY = FOLDER / "tiny.py"
FILES = sorted(FOLDER.glob("*.py"))


def leaves(config=None, prefix=""):
    """(key, type, value) of every key that is not a group."""
    config = Config() if config is None else config
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], value


LEAVES = list(leaves())
KEYS = [key for key, _, _ in LEAVES]


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def refusal(overrides, path=TINY):
    with pytest.raises(ValueError) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


# Files.

@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_loads_and_begins_with_its_command(path):
    config = load_config(path)
    assert from_dict(to_dict(config)) == config
    first, *_ = ast.get_docstring(ast.parse(path.read_text("utf-8"))).splitlines()
    start, workdir, name = first.partition(" --workdir=")
    assert start.startswith(f"lm2 train --config=configs/{path.name}")
    assert workdir and name and name == name.strip("`. ")


def test_the_file_is_the_only_place_of_its_values(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from ml_collections import ConfigDict\n\n\ndef get_config():\n"
                    "    return ConfigDict(dict(seed=7, model=dict(embed_dim=96)))\n")
    config = load_config(path)
    assert config == dataclasses.replace(Config(), seed=7, model=ModelConfig(embed_dim=96))


@pytest.mark.parametrize("source,wanted", [
    ("x = 1\n", "has no get_config()"),
    ("def get_config():\n    return {}\n", "returned dict, not an ml_collections.ConfigDict"),
    ("from ml_collections import ConfigDict\n\n\ndef get_config():\n"
     "    return ConfigDict(dict(train=3))\n", "train is 3; it must be a group of keys"),
    ("from ml_collections import ConfigDict\n\n\ndef get_config():\n"
     "    return ConfigDict(dict(train=dict(num_step=3)))\n",
     "unknown key train.num_step (value 3); did you mean train.num_steps?"),
])
def test_a_file_that_cannot_be_used(tmp_path, source, wanted):
    path = tmp_path / "own.py"
    path.write_text(source)
    assert wanted in refusal({}, path)


def test_a_word_behind_the_file_is_given_to_it(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from ml_collections import ConfigDict\n\n\ndef get_config(number='1'):\n"
                    "    return ConfigDict(dict(seed=int(number)))\n")
    assert load_config(path).seed == 1 and load_config(f"{path}:7").seed == 7
    assert "takes no word, and was given 7" in refusal({}, f"{TINY}:7")
    path.write_text("def get_config(number):\n    return {}\n")
    assert "needs a word" in refusal({}, path)
    with pytest.raises(FileNotFoundError, match="tiny.py"):
        load_config(FOLDER / "tyni.py:7")


RIVALS = FOLDER / "rivals.py"


def test_rivals_differ_in_the_memory_alone():
    """And in the width of the MLP, so that all have as many parameters within 1 %."""
    configs = {name: load_config(f"{RIVALS}:{name}") for name in
               ("lm2", "rmt", "armt", "llama", "full")}
    sizes = []
    for config in configs.values():
        model = dataclasses.replace(config.model, vocab_size=512)
        shapes = jax.eval_shape(lambda model=model: LanguageModel(model).init(
            jax.random.key(0), jnp.zeros((1, 1), jnp.int32), init_state(model, 1)))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
        assert config.data == configs["lm2"].data and config.train == configs["lm2"].train
    assert max(sizes) <= 1.01 * min(sizes)
    assert "has no model lm3; it has lm2, rmt" in refusal({}, f"{RIVALS}:lm3")


def test_a_missing_file_names_those_beside_it(tmp_path):
    for path, wanted in ((FOLDER / "tyni.py", "tiny.py"), (tmp_path / "no" / "x.py", "x.py")):
        with pytest.raises(FileNotFoundError, match=wanted) as error:
            load_config(path)
        assert "\n" not in str(error.value)


# Overrides.

@pytest.mark.parametrize("key,value", [(key, value) for key, _, value in LEAVES], ids=KEYS)
def test_every_default_can_be_given_as_a_string(tmp_path, key, value):
    path = tmp_path / "default.py"
    path.write_text("from ml_collections import ConfigDict as get_config\n")
    given = load_config(path, {key: str(value)})
    assert given == Config() and type(value_of(given, key)) is type(value)


@pytest.mark.parametrize("key,text,value", [
    ("seed", "3", 3),
    ("train.num_steps", "2e3", 2000),
    ("train.learning_rate", "3e-4", 3e-4),
    ("train.learning_rate", "1", 1.0),
    ("train.tensorboard", "false", False),
    ("train.tensorboard", "True", True),
    ("model.dtype", "bfloat16", "bfloat16"),
    ("model.memory.num_slots", "32", 32),
    ("model.rope_scaling", "None", None),
    ("model.rope_scaling.factor", "8", RopeScaling(factor=8.0)),
    ("data.babi", "12", "12"),
    ("data.tasks", "qa1,qa2", ("qa1", "qa2")),
    ("data.tasks", "qa1, qa2 ,", ("qa1", "qa2")),
    ("data.tasks", "('qa1', 'qa2')", ("qa1", "qa2")),
    ("data.tasks", '["qa3"]', ("qa3",)),
    ("eval.tasks", "", ()),
    ("eval.lengths", "96", ("96",)),
    ("eval.lengths", "96,192,4k", ("96", "192", "4k")),
    ("eval.lengths", "96,192", ("96", "192")),
    ("eval.memory", "carried", ("carried",)),
    ("data.curriculum", "((0,1),(800,2))", ((0, 1), (800, 2))),
    ("data.curriculum", "[[0, 4]]", ((0, 4),)),
    ("mesh.data", "-1", -1),
])
def test_overrides_from_the_command_line(key, text, value):
    key_of_value = key.removesuffix(".factor")
    config = load_config(TINY, {key: text})
    assert value_of(config, key_of_value) == value
    assert type(value_of(config, key_of_value)) is type(value)
    others = to_dict(dataclasses.replace(load_config(TINY), **{
        key.split(".")[0]: getattr(config, key.split(".")[0])}))
    assert to_dict(config) == others


def test_overrides_from_python_and_all_together():
    config = load_config(TINY, {"train.num_steps": 7, "data.tasks": ("qa1", "qa3"),
                                "model.memory.num_layers": 1, "model.memory.num_slots": 9})
    assert (config.train.num_steps, config.data.tasks) == (7, ("qa1", "qa3"))
    assert (config.model.memory.num_layers, config.model.memory.num_slots) == (1, 9)
    assert config.model.memory.num_heads == load_config(TINY).model.memory.num_heads


# What is refused.

@pytest.mark.parametrize("key", KEYS)
def test_an_unknown_key_names_the_nearest(key):
    message = refusal({key + key[-1]: "3"})
    assert f"unknown key {key + key[-1]} (value '3'); did you mean {key}?" == message


@pytest.mark.parametrize("key,wanted", [
    ("train.num_step", "did you mean train.num_steps?"),
    ("model.memory.slots", "did you mean model.memory.num_slots?"),
    ("trian.num_steps", "did you mean train?"),
    ("train.xyz", "known: num_steps, batch_size"),
    ("model.rope_scaling.fact", "did you mean model.rope_scaling.factor?"),
])
def test_unknown_keys(key, wanted):
    message = refusal({key: "3"})
    assert wanted in message and message.startswith("unknown key " + key.rpartition(".")[0][:5])


def test_a_key_below_a_value_and_a_value_in_place_of_a_group():
    assert refusal({"seed.x": "3"}) == "seed.x: seed is a value, not a group of keys"
    assert refusal({"model.memory": "3"}) == "model.memory is '3'; it must be a group of keys"


@pytest.mark.parametrize("key,hint", [(key, hint) for key, hint, _ in LEAVES if hint in
                                      (int, float, bool)])
def test_a_wrong_type_names_the_key(key, hint):
    for wrong in ("many", "1,2", "None") + (("1.5", "true") if hint is int else ("", "1j")):
        message = refusal({key: wrong})
        assert message.startswith(f"{key} is ") and f"it must be {hint.__name__}" in message


@pytest.mark.parametrize("overrides,key,wanted", [
    ({"model.num_heads": "3"}, "model.num_kv_heads", "a divisor of model.num_heads = 3"),
    ({"model.embed_dim": "33"}, "model.num_heads", "a divisor of model.embed_dim = 33"),
    ({"model.embed_dim": "34", "model.memory.num_layers": "0"}, "model.head_dim", "even"),
    ({"model.num_heads": "4", "model.num_kv_heads": "3"}, "model.num_kv_heads",
     "a divisor of model.num_heads = 4"),
    ({"model.memory.num_slots": "0"}, "model.memory.num_slots", "at least 1"),
    ({"model.memory.num_layers": "3"}, "model.memory.num_layers",
     "at most model.num_layers = 2"),
    ({"model.memory.key_init_scale": "0"}, "model.memory.key_init_scale", "above 0"),
    ({"model.memory.top_k": "5"}, "model.memory.top_k",
     "at most model.memory.num_slots = 4"),
    ({"model.memory.num_heads": "5"}, "model.memory.num_heads",
     "a divisor of model.embed_dim = 32"),
    ({"model.memory.kind": "lstm"}, "model.memory.kind", "one of lm2"),
    ({"model.segment_length": "0"}, "model.segment_length", "at least 1"),
    ({"model.dtype": "int8"}, "model.dtype", "one of float32, bfloat16"),
    ({"model.dropout": "1"}, "model.dropout", "in [0, 1)"),
    ({"model.remat": "all"}, "model.remat", "one of none, dots, full"),
    ({"model.rope_scaling.high_freq_factor": "1"}, "model.rope_scaling.high_freq_factor",
     "above low_freq_factor = 1.0"),
    ({"train.accumulate_steps": "3"}, "train.accumulate_steps", "a divisor of every batch size"),
    ({"train.learning_rate": "0"}, "train.learning_rate", "above 0"),
    ({"train.beta2": "1"}, "train.beta2", "in [0, 1)"),
    ({"train.num_steps": "0"}, "train.num_steps", "at least 1"),
    ({"checkpoint.every_steps": "0"}, "checkpoint.every_steps", "at least 1"),
    ({"data.tasks": ""}, "data.tasks", "at least one task"),
    ({"data.curriculum": "((5,1),)"}, "data.curriculum", "rising from 0"),
    ({"data.curriculum": "((0,1),(9,2),(9,3))"}, "data.curriculum", "rising from 0"),
    ({"data.curriculum": "((0,0),)"}, "data.curriculum", "the others >= 1"),
    ({"data.curriculum": "()"}, "data.curriculum", "rising from 0"),
    ({"data.curriculum": "((0,),)"}, "data.curriculum", "(first step, segments)"),
    ({"data.curriculum": "(0,1)"}, "data.curriculum[0]", "a tuple"),
    ({"data.curriculum": "((0,'x'),)"}, "data.curriculum[0][1]", "int"),
    ({"eval.memory": "carried,kept"}, "eval.memory", "carried, reset"),
    ({"eval.lengths": "4x"}, "eval.lengths", "'192', '4k' or '1M'"),
    ({"eval.asking": "chat"}, "eval.asking", "tuned, prompted"),
    ({"eval.asking": "prompted", "eval.lengths": "0k,300"}, "eval.lengths", "more than 300"),
    ({"eval.prompts": "own.json"}, "eval.prompts", "unless eval.asking is prompted"),
    ({"eval.indices": "i.json", "eval.samples": "s.jsonl"}, "eval.indices",
     "'' where eval.samples is set"),
    ({"mesh.fsdp": "0"}, "mesh.fsdp", "-1 or at least 1"),
    ({"seed": "-1"}, "seed", "in [0, 2**31)"),
])
def test_impossible_values(overrides, key, wanted):
    message = refusal(overrides)
    assert message.startswith((f"{key} is ", f"{key} has ")) and wanted in message


# Round trips.

def test_dict_round_trip_through_json():
    config = load_config(TINY, {"model.rope_scaling.factor": "8", "data.tasks": "qa1,qa2",
                                "data.curriculum": "((0,1),(9,2))", "eval.tasks": "qa3"})
    values = to_dict(config)
    assert from_dict(json.loads(json.dumps(values))) == config
    assert to_dict(from_dict(values)) == values


def test_differences_name_each_key_once():
    old = load_config(TINY)
    new = load_config(TINY, {"model.embed_dim": "64", "train.num_steps": "41", "seed": "1",
                             "model.rope_scaling.factor": "8", "eval.batch_size": "1"})
    assert differences(old, old) == []
    assert differences(old, new, ignore=("eval.", "train.num_steps")) == [
        "model.embed_dim: 32 -> 64", "model.head_dim: 16 -> 32",
        "model.rope_scaling.factor: None -> 8.0",
        "model.rope_scaling.high_freq_factor: None -> 4.0",
        "model.rope_scaling.low_freq_factor: None -> 1.0",
        "model.rope_scaling.original_max_position: None -> 8192",
        "seed: 0 -> 1"]


def test_changed_are_the_keys_that_are_not_the_default():
    assert config_file.changed(Config()) == {}
    changed = config_file.changed(dataclasses.replace(Config(), seed=5))
    assert changed == {"seed": 5}


def test_vocabulary_comes_from_the_tokenizer_unless_it_is_set():
    assert with_vocab_size(Config(), 50).model.vocab_size == 50
    own = dataclasses.replace(Config(), model=ModelConfig(vocab_size=60))
    assert with_vocab_size(own, 50) == own
    with pytest.raises(ValueError, match="^model.vocab_size is 60; .* the tokenizer's 61$"):
        with_vocab_size(own, 61)


@pytest.mark.parametrize("text,tokens", [
    ("0k", 0), ("192", 192), ("4096", 4096), ("1M", 2**20), ("10M", 10 * 2**20),
    *((f"{2**i}k", 2**(10 + i)) for i in range(10))])  # 1k to 512k
def test_lengths(text, tokens):
    assert parse_length(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "-1k", "1.5k", "4 k", "4kk"])
def test_what_is_not_a_length(text):
    with pytest.raises(ValueError, match="a length is a number of tokens"):
        parse_length(text)


def test_new_tokens_follow_the_way_of_asking_unless_they_are_set():
    tokens = [load_config(TINY, {"eval.asking": asking, "eval.max_new_tokens": given,
                                 "eval.lengths": "1k"}).eval.max_new_tokens
              for asking in ("tuned", "prompted") for given in (0, 3)]
    assert tokens == [8, 3, 20, 3]
