"""Folders as the transformers library writes them, of small random Llamas."""

import json

import ml_dtypes
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers

CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def shapes(config):
    """{name: shape} of the tensors of a LlamaForCausalLM, by its config.json."""
    D, F, N = (config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    K, H = config["num_key_value_heads"], config.get("head_dim") or D // N
    found = {"model.embed_tokens.weight": (config["vocab_size"], D), "model.norm.weight": (D,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], D)
    for layer in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in {
            "input_layernorm": (D,), "post_attention_layernorm": (D,),
            "self_attn.q_proj": (N * H, D), "self_attn.k_proj": (K * H, D),
            "self_attn.v_proj": (K * H, D), "self_attn.o_proj": (D, N * H),
            "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}.items()}
    return found


def weights(config, dtype=ml_dtypes.bfloat16):
    """Random tensors of order 1 / sqrt(fan in), the same whenever they are drawn."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes(config).items():
        drawn = rng.random(shape) - 0.5
        scale = 3 * shape[-1] ** -0.5 if len(shape) == 2 else 1.0
        found[name] = (drawn * scale + (len(shape) == 1)).astype(dtype)
    return found


def variables(model):
    """Random variables of a model, without compiling what initialises them."""
    import jax  # the script that writes the golden file may lack it

    from lm2_jax import partition
    from lm2_jax.model.lm import LanguageModel
    from lm2_jax.model.params import abstract_params

    rng = np.random.default_rng(3)
    abstract = abstract_params(LanguageModel(model), partition.make_mesh({}, 1))
    return jax.tree.map(lambda a: jax.device_put(
        rng.normal(0, 0.3, a.shape).astype(np.float32)), abstract)


def tokenizer(vocab_size):
    """A tokenizer of single letters and the like, with ends of a text."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(97 + i): i for i in range(3, vocab_size)}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def write(folder, config, tensors=None, files=1, tokens=None):
    """Writes config.json, safetensors by the library's own writer, and the tokenizer's files.

    Args:
      files: over which the tensors are spread.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(config) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if files == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        parts = {f"model-{i + 1:05d}-of-{files:05d}.safetensors": names[i::files]
                 for i in range(files)}
        for file, part in parts.items():
            save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({
            "metadata": {}, "weight_map": {name: file for file, part in parts.items()
                                           for name in part}}))
    (tokens or tokenizer(config["vocab_size"] - 3)).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True,
        "chat_template": CHAT_TEMPLATE}))
    return folder
