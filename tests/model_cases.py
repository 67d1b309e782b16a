"""Small models, one for each kind of memory and window, and their parameters."""

from functools import cache

import reference

from lm2_jax.config import MemoryConfig, ModelConfig

V = 19
MEMORY_KEYS = ("kind", "top_k", "write", "write_top_k", "coupled_gates", "gates_see_slot",
               "slot_keys", "tied_addressing")
B = 3


def make_config(T=5, M=4, P=1, window=0, **changes):
    memory = MemoryConfig(num_slots=M, num_heads=2, num_layers=P, key_dim=4,
                          **{key: changes.pop(key) for key in MEMORY_KEYS if key in changes})
    small = dict(vocab_size=V, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                 mlp_dim=24, segment_length=T, memory=memory, attention_window=window)
    return ModelConfig(**{**small, **changes})


CASES = {
    "memory in all blocks": make_config(T=6, M=4, P=2, top_k=2),
    "more slots than tokens and channels": make_config(T=4, M=19, tie_embeddings=False),
    "the paper's write": make_config(T=6, M=5, P=2, write="paper"),
    "null write, 2 slots": make_config(T=6, M=5, P=2, write="null", write_top_k=2),
    "open write": make_config(T=6, M=5, write="open"),
    "untied uncoupled write": make_config(T=6, M=5, coupled_gates=False, tied_addressing=False,
                                          slot_keys=True),
    "no memory": make_config(P=0),
    "window and memory": make_config(T=6, window=3),
    "window beyond a segment": make_config(T=4, M=3, P=2, window=11),
    "window alone": make_config(P=0, window=5),
    "memory tokens": make_config(T=6, M=3, P=2, kind="rmt"),
    "memory tokens and window": make_config(T=6, M=3, P=2, kind="rmt", window=4),
    "associations and window": make_config(T=4, M=3, P=2, kind="armt", window=7),
    "associations": make_config(T=6, M=3, P=2, kind="armt"),
    "associations in one block": make_config(T=4, M=5, P=1, kind="armt", num_layers=3),
    "recurrence in one block": make_config(T=6, P=1, kind="delta"),
}


@cache
def variables(config):
    return reference.params(config)
