"""`convert.llama`: a config.json of the transformers library as a `ModelConfig` and back."""

import json
from pathlib import Path

import hf_folders
import pytest

from lm2_jax.config import ModelConfig, RopeScaling
from lm2_jax.convert import importing, llama
from lm2_jax.errors import UserError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
CONFIG = dict(
    model_type="llama", vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, hidden_act="silu",
    max_position_embeddings=256)


def model_of(changes):
    return llama.model_config(CONFIG | changes, Path("config.json"))


@pytest.mark.parametrize("changes,reason", [
    ({"attention_bias": True}, "attention_bias is set"),
    ({"mlp_bias": True}, "mlp_bias is set"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"sliding_window": 32, "model_type": "mistral"}, "sliding_window is 32"),
    ({"model_type": "mistral"}, "sliding_window is 4096"),  # its default
    ({"model_type": "mixtral", "num_local_experts": 8}, "it is a mixture of experts"),
    ({"num_local_experts": 8}, "it has 8 experts"),
    ({"model_type": "qwen2"}, "its attention has biases"),
    ({"model_type": "rwkv"}, "only llama and mistral are known"),
    ({"quantization_config": {"bits": 4}}, "give the weights before quantisation"),
    ({"layer_types": ["sliding_attention"] * 2}, "layers other than full_attention"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'"),
    ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
     "rope_type is 'linear'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "lacks high_freq_factor"),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
    ({"rope_scaling": LLAMA3 | {"factor": None}}, "cannot be converted"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "must be an object"),
    ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}}, "contradict"),
    ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}, "contradict each other"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"partial_rotary_factor": 0.5}, "we rotate all channels"),
    ({"num_key_value_heads": 3}, "model.num_kv_heads is 3"),
    ({"hidden_size": None}, "lacks hidden_size"),
])
def test_what_is_not_a_llama_is_refused_with_the_reason(changes, reason, tmp_path):
    folder = tmp_path / "hf"
    hf_folders.write(folder, CONFIG)
    config = CONFIG | {"rope_parameters": None} | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json") as error:
        importing.from_hf(folder, tmp_path / "run")
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scaling", [{}, LLAMA3])
def test_both_forms_of_the_rotary_positions_give_one_model(scaling):
    older = model_of({"rope_theta": 500_000.0, "rope_scaling": scaling or None})
    newer = model_of({"rope_parameters": {"rope_theta": 500_000.0} | scaling})
    both = model_of({"rope_theta": 500_000.0, "rope_scaling": scaling and scaling | {
        "type": "llama3"}, "rope_parameters": scaling | {"rope_theta": 500_000.0}})
    assert older == newer == both and older.rope_theta == 500_000
    assert older.rope_scaling == (RopeScaling(8.0, 1.0, 4.0, 8192) if scaling else None)


@pytest.mark.parametrize("model", [
    ModelConfig(vocab_size=40, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_dim=48,
                head_dim=16, segment_length=64, rope_theta=500_000.0, norm_eps=1e-5,
                rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), tie_embeddings=False),
    ModelConfig(vocab_size=40, embed_dim=32, num_layers=1, num_heads=4, num_kv_heads=4, mlp_dim=48,
                segment_length=64)])
def test_the_config_of_a_model_that_was_trained_here_is_read_back(model):
    written = json.loads(json.dumps(llama.to_json(model, 40, "float32")))
    assert llama.model_config(written, Path("config.json"), 64) == model


def test_a_mistral_without_a_window_is_a_llama():
    mistral = {key: value for key, value in CONFIG.items() if key != "num_key_value_heads"} | {
        "model_type": "mistral", "sliding_window": None, "num_attention_heads": 16,
        "max_position_embeddings": None}
    model = llama.model_config(mistral, Path("config.json"))
    assert model.num_kv_heads == 8 and model.segment_length == llama.LONGEST_SEGMENT
    mistral["num_key_value_heads"] = None
    assert llama.model_config(mistral, Path("config.json")).num_kv_heads == 16
