"""Writes tests/parity/llama_golden.npz: weights and logits of a tiny random LlamaForCausalLM.

    python tests/tools/make_golden_llama.py  # needs the extra `parity` (torch, transformers)

Keys: `config` (JSON, names as in ModelConfig), `tokens` [B, T], `logits_tied` and
`logits_untied` [B, T, V], and the weights under their names in the transformers library.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

PATH = Path(__file__).parents[1] / "parity" / "llama_golden.npz"
CONFIG = dict(vocab_size=40, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_dim=48,
              segment_length=24, rope_theta=10_000.0, norm_eps=1e-5,
              rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                original_max_position=64))


def llama(tied: bool) -> LlamaForCausalLM:
    """Returns a model with weights of order 1 / sqrt(fan_in), for activations of order 1."""
    scaling = CONFIG["rope_scaling"]
    config = LlamaConfig(
        vocab_size=CONFIG["vocab_size"], hidden_size=CONFIG["embed_dim"],
        intermediate_size=CONFIG["mlp_dim"], num_hidden_layers=CONFIG["num_layers"],
        num_attention_heads=CONFIG["num_heads"], num_key_value_heads=CONFIG["num_kv_heads"],
        rms_norm_eps=CONFIG["norm_eps"], tie_word_embeddings=tied,
        rope_parameters=dict(
            rope_type="llama3", rope_theta=CONFIG["rope_theta"], factor=scaling["factor"],
            low_freq_factor=scaling["low_freq_factor"],
            high_freq_factor=scaling["high_freq_factor"],
            original_max_position_embeddings=scaling["original_max_position"]))
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(1 + 0.3 * drawn)
            else:
                fan_in = weight.shape[1]
                weight.copy_(drawn / fan_in**0.5)
    return model


def main():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG["vocab_size"], (2, CONFIG["segment_length"]))
    arrays = {"config": json.dumps(CONFIG), "tokens": tokens.astype(np.int32)}
    untied, tied = llama(tied=False), llama(tied=True)
    tied.load_state_dict({**untied.state_dict(),
                          "lm_head.weight": untied.state_dict()["model.embed_tokens.weight"]})
    for name, model in (("tied", tied), ("untied", untied)):
        with torch.no_grad():
            logits = model.double()(torch.from_numpy(tokens)).logits
        arrays[f"logits_{name}"] = logits.float().numpy()
    arrays |= {name: weight.float().numpy() for name, weight in untied.state_dict().items()}
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes, logits of standard deviation "
          f"{arrays['logits_tied'].std():.2f} and {arrays['logits_untied'].std():.2f}")


if __name__ == "__main__":
    main()
