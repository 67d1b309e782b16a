"""Writes tests/parity/convert_golden.npz: configs and logits of small random LlamaForCausalLMs.

    python tests/tools/make_golden_convert.py  # needs the extra `parity` (torch, transformers)

For each shape: `NAME_config`, the config.json that transformers writes, and `NAME_logits`
[B, T, V] of `tokens` [B, T]. The weights are those of `hf_folders.weights`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
import hf_folders  # noqa: E402

PATH = Path(__file__).parents[1] / "parity" / "convert_golden.npz"
COMMON = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
              num_attention_heads=4, max_position_embeddings=64)
SCALING = dict(rope_type="llama3", rope_theta=10_000.0, factor=8.0, low_freq_factor=1.0,
               high_freq_factor=4.0, original_max_position_embeddings=16)
SHAPES = {
    "grouped": dict(num_key_value_heads=2, tie_word_embeddings=True),
    "untied": dict(num_key_value_heads=1, head_dim=12, tie_word_embeddings=False,
                   rms_norm_eps=1e-5),
    "scaled": dict(num_key_value_heads=4, tie_word_embeddings=True, rope_parameters=SCALING),
}


def main():
    tokens = np.random.default_rng(1).integers(0, COMMON["vocab_size"], (2, 24))
    arrays = {"tokens": tokens.astype(np.int32)}
    for name, changes in SHAPES.items():
        model = LlamaForCausalLM(LlamaConfig(**COMMON, **changes)).eval().double()
        config = model.config.to_dict()
        weights = hf_folders.weights(config, np.float32)
        if config["tie_word_embeddings"]:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens)).logits
        arrays |= {f"{name}_config": json.dumps(config), f"{name}_logits": logits.float().numpy()}
        print(name, f"standard deviation {logits.std():.2f}")
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
