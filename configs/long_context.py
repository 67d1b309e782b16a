"""An untrained LM2 with a backbone of 10 M parameters, whose time and memory over long contexts
`lm2 bench context` measures.

    lm2 bench context --out=context

The backbone has 8 blocks of width 320 and segments of 256 tokens; each block has a bank of 256
slots.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        vocab_size=512, embed_dim=320, num_layers=8, num_heads=5, num_kv_heads=5, mlp_dim=896,
        segment_length=256, rope_theta=500_000.0,
        memory=dict(num_slots=256, num_heads=5, num_layers=8))
    return config
