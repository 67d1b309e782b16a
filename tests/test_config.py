"""Configs: files, overrides from the command line, and round trips."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from config_keys import FOLDER, KEYS, LEAVES, TINY, refusal

from lm2_jax.config import Config, ModelConfig, RopeScaling, parse_length, shipped, with_vocab_size
from lm2_jax.config import files as config_file
from lm2_jax.config.files import differences, from_dict, load_config, to_dict
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state

FILES = sorted(FOLDER.glob("*.py"))


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


# Files.

@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_it_does_and_its_command(path):
    config = load_config(path)
    assert from_dict(to_dict(config)) == config
    summary, empty, *_ = shipped.docstring(path).splitlines()
    assert summary.endswith(".") and empty == ""
    command = shipped.command(path)
    assert command.startswith((f"lm2 train --config={path.stem}",
                               f"lm2 bench step --config={path.stem}"))
    assert " --workdir=runs/" in command or command.startswith("lm2 bench ")


def test_keys_that_a_file_does_not_set_have_their_defaults(tmp_path):
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
def test_a_file_that_cannot_be_used_is_refused(tmp_path, source, wanted):
    path = tmp_path / "own.py"
    path.write_text(source)
    assert wanted in refusal({}, path)


def test_an_argument_after_the_file_is_passed_to_get_config(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from ml_collections import ConfigDict\n\n\ndef get_config(number='1'):\n"
                    "    return ConfigDict(dict(seed=int(number)))\n")
    assert load_config(path).seed == 1 and load_config(f"{path}:7").seed == 7
    assert "takes no argument, and was given 7" in refusal({}, f"{TINY}:7")
    path.write_text("def get_config(number):\n    return {}\n")
    assert "needs an argument" in refusal({}, path)
    with pytest.raises(FileNotFoundError, match="tiny.py"):
        load_config(FOLDER / "tyni.py:7")


RIVALS = FOLDER / "rivals.py"


def test_rivals_differ_only_in_the_memory():
    """And in the width of the MLP, so that numbers of parameters are equal within 1 %."""
    configs = {name: load_config(f"{RIVALS}:{name}") for name in
               ("lm2", "rmt", "armt", "delta", "llama", "window", "full")}
    sizes = []
    for config in configs.values():
        model = dataclasses.replace(config.model, vocab_size=512)
        shapes = jax.eval_shape(lambda model=model: LanguageModel(model).init(
            jax.random.key(0), jnp.zeros((1, 1), jnp.int32), init_state(model, 1)))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
        train = dataclasses.replace(configs["lm2"].train, write_cost=config.train.write_cost,
                                    write_cost_from=config.train.write_cost_from,
                                    window_from_segments=3 * bool(config.model.memory.num_layers))
        assert config.data == configs["lm2"].data and config.train == train
    assert max(sizes) <= 1.01 * min(sizes)
    for name in ("lm3", "lm2_qa9"):
        assert f"there is no run {name}; the models are lm2, rmt" in refusal({}, f"{RIVALS}:{name}")


@pytest.mark.parametrize("task", ["qa2", "qa3", "mixture"])
def test_rivals_differ_as_much_on_other_tasks(task):
    """Each has the tokens of qa1 in a batch, and differs from LM2 as on qa1."""
    qa1 = load_config(f"{RIVALS}:lm2")

    def tokens(config):
        return {stage[1] * stage[2] * config.model.segment_length
                for stage in config.data.curriculum}

    configs = []
    for name in ("lm2", "rmt", "delta", "window", "llama", "full"):
        config, on_qa1 = load_config(f"{RIVALS}:{name}_{task}"), load_config(f"{RIVALS}:{name}")
        longer = config.model.segment_length / on_qa1.model.segment_length
        window, theta = on_qa1.model.attention_window, on_qa1.model.rope_theta
        assert config.model == dataclasses.replace(
            on_qa1.model, segment_length=config.model.segment_length,
            attention_window=int(window * longer) if window == 24 else window,
            rope_theta=theta * longer if theta == 10 else theta)
        configs.append(config)
    assert all(config.data == configs[0].data and config.eval.lengths == configs[0].eval.lengths
               for config in configs)
    assert max(tokens(configs[0])) == max(tokens(qa1))
    assert configs[0].train.num_steps == qa1.train.num_steps


def test_the_quickstart_has_a_llama_beside_it():
    """Of as many parameters within 1 %, with the same data and steps."""
    configs = [load_config(f"{FOLDER / 'quickstart.py'}{name}") for name in ("", ":full")]
    sizes = []
    for config in configs:
        model = dataclasses.replace(config.model, vocab_size=512)
        variables = jax.eval_shape(lambda model=model: LanguageModel(model).init(
            jax.random.key(0), jnp.zeros((1, 1), jnp.int32), init_state(model, 1)))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(variables)))
    assert max(sizes) <= 1.01 * min(sizes)
    one, other = configs
    assert one.data == other.data and one.train.num_steps == other.train.num_steps
    assert "there is no model fool" in refusal({}, f"{FOLDER / 'quickstart.py'}:fool")


@pytest.mark.parametrize("name", ["quickstart", "rivals:lm2", "babilong_real"])
@pytest.mark.parametrize("override", ["model.memory.write=paper", "model.memory.kind=rmt",
                                      "model.memory.num_layers=0", "eval.lengths=512,4k"])
def test_one_flag_gives_another_memory_or_other_lengths(name, override):
    key, value = override.split("=")
    config = load_config(name, {key: value})
    assert str(value_of(config, key)) == value or config.eval.max_samples == ()
    both = load_config(name, {"eval.lengths": "512,4k", "eval.max_samples": "9,3"})
    assert both.eval.max_samples == (9, 3)


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
    ("train.remat_segments", "false", False),
    ("train.remat_segments", "True", True),
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
    with pytest.raises(ValueError, match="^eval.lengths is .* must be a number of tokens"):
        parse_length(text)


def test_new_tokens_follow_the_prompt_style_unless_they_are_set():
    tokens = [load_config(TINY, {"eval.prompt_style": style, "eval.max_new_tokens": given,
                                 "eval.lengths": "1k"}).eval.max_new_tokens
              for style in ("fine_tuned", "instruct") for given in (0, 3)]
    assert tokens == [8, 3, 20, 3]
