"""A real run of one minute, for tests and experiments: it trains, saves, resumes and evaluates.

    lm2 train --config=tiny --workdir=runs/tiny
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=32, num_layers=2, num_heads=2, num_kv_heads=2, mlp_dim=64, segment_length=48,
        rope_theta=100.0,
        memory=dict(num_slots=4, num_heads=2, num_layers=2))
    config.data = dict(
        tokenizer_vocab_size=256, background_sentences=2000, persons=2, points_per_segment=1.0,
        questions_per_point=2, curriculum=((0, 1), (35, 2)))
    config.train = dict(num_steps=40, batch_size=8, learning_rate=5e-3, warmup_steps=10,
                        remat_segments=False, advance_accuracy=0.05, advance_every=5,
                        eval_every_steps=20)
    config.checkpoint = dict(every_steps=10)
    config.eval = dict(lengths=("96", "192"), num_samples=20, during_training=10,
                       batch_size=20, min_distance=0)
    return config
