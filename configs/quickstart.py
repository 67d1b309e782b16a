"""LM2 learns to answer from its memory, in seven to fifteen minutes on two CPU cores.

    lm2 train --config=quickstart --workdir=runs/quickstart

The task is bAbI's qa1 with two persons. Facts are scattered over segments of 24 tokens, and a
question is asked when attention no longer sees the fact that answers it. The curriculum has stages
of one, two, three, four and eight segments. In the last one a row holds four samples of eight
segments, each of which begins with the memory that the one before left, and open slots have a cost.
Attention sees the 24 tokens before a segment in rows of three segments and more; the questions of
two segments can only be answered from the memory. The evaluation has 4 to 683 segments.

`quickstart:full` is a Llama with as many parameters, trained on the same batches, whose attention
sees all earlier tokens:

    lm2 train --config=quickstart:full --workdir=runs/quickstart_full
"""

from ml_collections import ConfigDict

# The MLP takes the parameters of the memory. RoPE's base is larger, since attention looks further.
FULL = {"model.memory.num_layers": 0, "model.mlp_dim": 600, "model.attention_window": 16384,
        "model.rope_theta": 1000.0, "train.window_from_segments": 0, "train.write_cost": 0.0,
        "eval.memory": ("carried",), "eval.batch_size": 10}
MODELS = {"lm2": {}, "full": FULL}


def get_config(name: str = "lm2") -> ConfigDict:
    if name not in MODELS:
        raise ValueError(f"there is no model {name}; the models are {', '.join(MODELS)}")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=24, attention_window=24, rope_theta=10.0,
        memory=dict(num_slots=16, num_heads=4, num_layers=3, output_gate_bias=-1.0))
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=512, persons=2, turns_up_to=2,
        points_per_segment=1.0, questions_per_point=2, deferred=True, bare_fraction=0.5,
        vary_length=False, sample_segments=8, passed_states=1.0,
        curriculum=((0, 1, 30), (150, 2, 20), (400, 3, 16), (600, 4, 12), (850, 8, 8),
                    (1900, 32, 2)))
    config.train = dict(
        num_steps=2400, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, bptt_segments=8, window_from_segments=3,
        write_cost=0.1, write_cost_from=1900)
    config.checkpoint = dict(every_steps=300)
    config.eval = dict(
        lengths=("96", "192", "384", "1k", "4k", "16k"), num_samples=300,
        max_samples=(300, 300, 300, 300, 100, 30), reset_up_to="4k", batch_size=100,
        min_distance=1)
    config.update_from_flattened_dict(MODELS[name])
    return config
