"""LM2 learns to answer from its memory, in three to ten minutes on two CPU cores.

    lm2 train --config=quickstart --workdir=runs/quickstart

The task is bAbI's qa1 with two persons. Facts are scattered over segments of 24 tokens, and a
question is asked when attention no longer sees the fact that answers it. The curriculum has stages
of one, two, four and eight segments; a stage ends when held-out accuracy reaches 0.97, or at its
last step. The evaluation has 4, 8 and 16 segments; 16 is twice the longest trained length. The
write is the paper's; rivals.py has the model and the training that keep facts to 128k tokens.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=24, rope_theta=10.0,
        memory=dict(num_slots=16, num_heads=4, num_layers=3, write="paper",
                    output_gate_bias=-1.0))
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=512, persons=2, turns_up_to=2,
        points_per_segment=1.0, questions_per_point=2, deferred=True, bare_fraction=0.5,
        vary_length=False,
        curriculum=((0, 1, 30), (400, 2, 20), (900, 4, 12), (1200, 8, 8)))
    config.train = dict(
        num_steps=1700, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, advance_accuracy=0.97,
        eval_every_steps=600)
    config.checkpoint = dict(every_steps=300)
    config.eval = dict(lengths=("96", "192", "384"), num_samples=1000, during_training=100,
                       batch_size=100, min_distance=1)
    return config
