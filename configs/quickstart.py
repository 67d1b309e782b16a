"""lm2 train --config=configs/quickstart.py --workdir=runs/quickstart

LM2 learns on a laptop to answer from its memory: bAbI's qa1 with two persons, facts scattered
over segments of 48 tokens, the question when attention no longer sees them. First what a segment
holds, then three segments, then eight; evaluated at 4, 8 and 16. Within ten minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=48, rope_theta=10.0, scan_unroll=3,
        memory=dict(num_slots=8, num_heads=4, num_layers=3))
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=512, persons=2, points_per_segment=2.0,
        questions_per_point=2, deferred=True, bare_fraction=0.2, vary_length=False,
        curriculum=((0, 1, 20), (400, 3, 10), (2500, 8, 8)))
    config.train = dict(
        num_steps=2900, learning_rate=1e-3, final_learning_rate=5e-4, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, segment_unroll=8, eval_every_steps=1000)
    config.checkpoint = dict(every_steps=300)
    config.eval = dict(lengths=("192", "384", "768"), num_samples=1000, during_training=100,
                       batch_size=100, min_distance=1)
    return config
