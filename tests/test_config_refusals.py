"""What a config refuses, in one line each: keys, types and values."""

import pytest
from config_keys import KEYS, LEAVES, refusal


@pytest.mark.parametrize("key", KEYS)
def test_an_unknown_key_names_the_nearest(key):
    message = refusal({key + key[-1]: "3"})
    assert f"unknown key {key + key[-1]} (value '3'); did you mean {key}?" == message


@pytest.mark.parametrize("key,wanted", [
    ("train.num_step", "did you mean train.num_steps?"),
    ("model.memory.num_slot", "did you mean model.memory.num_slots?"),
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
    ({"model.memory.top_k": "5"}, "model.memory.top_k",
     "at most model.memory.num_slots = 4"),
    ({"model.memory.num_heads": "5"}, "model.memory.num_heads",
     "a divisor of model.embed_dim = 32"),
    ({"model.memory.kind": "lstm"}, "model.memory.kind", "one of lm2"),
    ({"model.segment_length": "0"}, "model.segment_length", "at least 1"),
    ({"model.dtype": "int8"}, "model.dtype", "one of float32, bfloat16"),
    ({"model.dtype": "float16"}, "model.dtype", "one of float32, bfloat16"),
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
    ({"eval.lengths": "1k,4k", "eval.max_samples": "9"}, "eval.max_samples", "2 numbers >= 1"),
    ({"eval.max_samples": "9,0"}, "eval.max_samples", "one for each of eval.lengths"),
    ({"eval.prompt_style": "chat"}, "eval.prompt_style", "fine_tuned, instruct"),
    ({"eval.prompt_style": "instruct", "eval.lengths": "0k,300"}, "eval.lengths", "more than 300"),
    ({"eval.prompts": "own.json"}, "eval.prompts", "unless eval.prompt_style is instruct"),
    ({"eval.indices": "i.json", "eval.samples": "s.jsonl"}, "eval.indices",
     "'' where eval.samples is set"),
    ({"mesh.fsdp": "0"}, "mesh.fsdp", "-1 or at least 1"),
    ({"seed": "-1"}, "seed", "in [0, 2**31)"),
])
def test_impossible_values(overrides, key, wanted):
    message = refusal(overrides)
    assert message.startswith((f"{key} is ", f"{key} has ")) and wanted in message
