"""Writes a folder with a random Llama of 1.24 billion parameters, of the shape of Llama 3.2 1B.

    python tests/tools/random_llama.py FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import hf_folders

CONFIG = dict(
    model_type="llama", vocab_size=128_256, hidden_size=2048, intermediate_size=8192,
    num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
    rms_norm_eps=1e-5, tie_word_embeddings=True, hidden_act="silu", rope_theta=500_000.0,
    rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192), max_position_embeddings=131_072)

if __name__ == "__main__":
    hf_folders.write(Path(sys.argv[1]), CONFIG, files=2, tokens=hf_folders.tokenizer(1000))
