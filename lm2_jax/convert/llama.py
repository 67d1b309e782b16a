"""A Llama's config.json, as the transformers library writes it, and our `ModelConfig`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lm2_jax.config import ModelConfig, RopeScaling, files
from lm2_jax.errors import UserError, UserFileNotFoundError

CONFIG = "config.json"
LLAMAS = ("llama", "mistral")  # a Mistral without a sliding window is a Llama
LM2 = "lm2"  # model_type of our own exports
OUR_MODEL = "lm2_jax_model"  # key of our own exports: the ModelConfig
OTHERS = {
    "qwen2": "its attention has biases",
    "qwen3": "it normalises queries and keys",
    "gemma": "its norms and its activation are others",
    "gemma2": "its norms are others and its windows slide",
    "gemma3_text": "its norms are others and its windows slide",
    "phi3": "its projections are fused and its windows slide",
    "smollm3": "some of its layers have no rotary positions",
    "mixtral": "it is a mixture of experts",
    "llama4": "it is a mixture of experts",
    "llama4_text": "it is a mixture of experts",
    "granite": "it scales its residual stream and its logits",
}
DEFAULTS: dict[str, Any] = dict(  # of transformers' LlamaConfig
    rms_norm_eps=1e-6, rope_theta=10_000.0, tie_word_embeddings=False, hidden_act="silu",
    max_position_embeddings=2048)
# Where its MistralConfig has others. null is no window, and as many kv heads as heads.
MISTRAL: dict[str, Any] = dict(
    sliding_window=4096, num_key_value_heads=8, max_position_embeddings=131_072)
NULLS = ("sliding_window", "num_key_value_heads")  # keys whose null is not the default
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads")
LONGEST_SEGMENT = 8192  # by default
# Keys of `ModelConfig` that a Llama decides; the others are how it is read and trained.
SHAPE = ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "mlp_dim",
         "head_dim", "rope_theta", "rope_scaling", "norm_eps", "tie_embeddings")


def read(folder: Path) -> dict:
    """Returns the config.json of a folder.

    Raises:
      UserFileNotFoundError: there is none.
      UserError: it is not a JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserFileNotFoundError(f"{folder} holds no model (no {CONFIG}); give a folder that "
                                    "save_pretrained of transformers wrote")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object")
    return config


def model_config(config: dict, path: Path, segment_length: int = 0) -> ModelConfig:
    """Returns the `ModelConfig` of a config.json.

    Args:
      config: its contents.
      path: of the file, for messages.
      segment_length: 0 = the context that the model was trained with, at most LONGEST_SEGMENT;
        that of our own exports is theirs.

    Raises:
      UserError: if the model is not a Llama; it says by which keys, and why.
    """
    if config.get("model_type") == LM2 and OUR_MODEL in config:
        model = files.from_stored({"model": config[OUR_MODEL]}).model
        return dataclasses.replace(model, segment_length=segment_length or model.segment_length)
    rope = _rope(config, path)
    values: dict[str, Any] = DEFAULTS | (MISTRAL if config.get("model_type") == "mistral" else {})
    values |= {k: v for k, v in config.items() if v is not None or k in NULLS}
    if missing := [key for key in REQUIRED if key not in values]:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    if reasons := _not_a_llama(values, rope):
        raise UserError(f"{path} describes a model that cannot be converted: "
                        + "; ".join(reasons))
    scaling = None
    try:
        if rope["rope_type"] == "llama3":
            scaling = RopeScaling(
                factor=float(rope["factor"]), low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
                original_max_position=int(rope["original_max_position_embeddings"]))
        return ModelConfig(
            vocab_size=values["vocab_size"], embed_dim=values["hidden_size"],
            num_layers=values["num_hidden_layers"], num_heads=values["num_attention_heads"],
            num_kv_heads=values.get("num_key_value_heads") or values["num_attention_heads"],
            mlp_dim=values["intermediate_size"], head_dim=values.get("head_dim", 0),
            segment_length=segment_length or min(values["max_position_embeddings"],
                                                 LONGEST_SEGMENT),
            rope_theta=float(rope.get("rope_theta", values["rope_theta"])), rope_scaling=scaling,
            norm_eps=float(values["rms_norm_eps"]), tie_embeddings=values["tie_word_embeddings"])
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be converted: {error}") from error


def to_json(model: ModelConfig, vocab_size: int, dtype: str, source: dict | None = None) -> dict:
    """Returns the config.json of a model.

    Args:
      vocab_size: number of rows of the exported embedding.
      dtype: of the tensors, as torch names it.
      source: of the Llama that the model began from, whose other keys are kept.
    """
    source = dict(source or {})
    source.pop("auto_map", None)  # names code that is not here
    source.pop(OUR_MODEL, None)
    config = source | dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=vocab_size,
        hidden_size=model.embed_dim, intermediate_size=model.mlp_dim,
        num_hidden_layers=model.num_layers, num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads, head_dim=model.head_dim,
        rms_norm_eps=model.norm_eps, tie_word_embeddings=model.tie_embeddings, hidden_act="silu",
        attention_bias=False, mlp_bias=False)
    config.setdefault("max_position_embeddings", model.segment_length)
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    if "rope_parameters" not in config:  # of newer versions; older ones cannot read it
        scaling = model.rope_scaling
        config["rope_theta"] = model.rope_theta
        config["rope_scaling"] = scaling and dict(
            rope_type="llama3", factor=scaling.factor, low_freq_factor=scaling.low_freq_factor,
            high_freq_factor=scaling.high_freq_factor,
            original_max_position_embeddings=scaling.original_max_position)
    if model.memory.num_layers:
        model = dataclasses.replace(model, vocab_size=vocab_size)
        config |= {"architectures": ["LM2ForCausalLM"], "model_type": LM2,
                   OUR_MODEL: json.loads(json.dumps(dataclasses.asdict(model)))}
    return config


def shape(model: ModelConfig) -> dict[str, object]:
    """Returns {"model.embed_dim": 576, ...}, what a Llama decides of a config."""
    values = dataclasses.asdict(model)
    return {f"model.{key}": values[key] for key in SHAPE}


def _rope(config: dict, path: Path) -> dict:
    """The parameters of the rotary positions, of either form, with their rope_type."""
    forms = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    for key, rope in forms.items():
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            raise UserError(f"{path} cannot be converted: {key} is {rope!r}; it must be an object "
                            "with the parameters of the rotary positions of all blocks")
    theta = {"rope_theta": config["rope_theta"]} if config.get("rope_theta") else {}
    found: list[dict[str, Any]] = []
    given: list[dict[str, Any]] = list(forms.values()) or [{}]
    for rope in given:
        kind = rope.get("rope_type", rope.get("type", "default"))
        found.append(theta | {k: v for k, v in rope.items() if k != "type"} | {"rope_type": kind})
    if any(rope != found[0] for rope in found) or theta.items() - found[0].items():
        raise UserError(f"{path} cannot be converted: rope_theta, rope_scaling and rope_parameters "
                        "contradict each other; leave out what is wrong")
    return found[0]


def _not_a_llama(config: dict, rope: dict) -> list[str]:
    """One reason for each key by which a model is not a Llama as ours."""
    kind, reasons = config.get("model_type"), []
    if kind not in LLAMAS:
        why = OTHERS.get(str(kind), "only " + " and ".join(LLAMAS) + " are known to be Llamas")
        reasons.append(f"model_type is {kind!r}: {why}")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            reasons.append(f"{key} is set: our projections have no biases")
    if not isinstance(config["tie_word_embeddings"], bool):
        reasons.append(f"tie_word_embeddings is {config['tie_word_embeddings']!r}: it must be true "
                       "or false")
    if config["hidden_act"] not in ("silu", "swish"):
        reasons.append(f"hidden_act is {config['hidden_act']!r}: our MLP uses silu")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        reasons.append(f"sliding_window is {config['sliding_window']}: our attention sees the "
                       "whole segment")
    if any(kind != "full_attention" for kind in config.get("layer_types", ())):
        reasons.append("layer_types has layers other than full_attention")
    if experts := config.get("num_local_experts") or config.get("num_experts"):
        reasons.append(f"it has {experts} experts in a block: our MLP has one")
    if config.get("quantization_config"):
        reasons.append("quantization_config is set: give the weights before quantisation")
    if rope["rope_type"] not in ("default", "llama3"):
        reasons.append(f"rope_type is {rope['rope_type']!r}: our rotary positions are scaled as "
                       "Llama 3's (llama3) or not at all (default)")
    elif rope["rope_type"] == "llama3":
        needed = {"factor", "low_freq_factor", "high_freq_factor",
                  "original_max_position_embeddings"}
        if missing := sorted(needed - rope.keys()):
            reasons.append(f"the scaling of its rotary positions lacks {', '.join(missing)}")
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        reasons.append("partial_rotary_factor is not 1: we rotate all channels of a head")
    return reasons
