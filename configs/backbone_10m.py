"""A Llama of ten million parameters for measurements of speed on CPUs; LM2 with `:lm2`.

    lm2 bench step --config=backbone_10m --torch-python=VENV/bin/python
    lm2 bench step --config=backbone_10m:lm2 --remat

A step reads four rows of one segment of 256 tokens. The memory of `:lm2` has 256 slots in each of
the eight blocks, as many as a segment has tokens and a block has dimensions.
"""

from ml_collections import ConfigDict

RUNS = {"llama": 0, "lm2": 8}


def get_config(name: str = "llama") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no model {name}; the models are {', '.join(RUNS)}")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        vocab_size=8192, embed_dim=256, num_layers=8, num_heads=8, num_kv_heads=4, mlp_dim=1024,
        segment_length=256, rope_theta=10000.0,
        memory=dict(num_slots=256, num_heads=8, num_layers=RUNS[name]))
    config.data = dict(curriculum=((0, 1, 4),))
    config.train = dict(num_steps=100, remat_segments=False)
    return config
