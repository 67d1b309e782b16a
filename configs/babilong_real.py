"""lm2 train --config=configs/babilong_real.py --workdir=runs/babilong_real \\
      --config.data.babi=BABI/en-10k --config.data.background=BOOKS/train \\
      --config.eval.background=BOOKS/test

BABILong's qa1 from real bAbI files and real books: trained on the train files and train books,
evaluated on the test files and test books at 0k to 4k tokens.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=64, rope_theta=10.0, scan_unroll=3,
        memory=dict(num_slots=8, num_heads=4, num_layers=3))
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=1024, deferred=True, bare_fraction=0.2,
        curriculum=((0, 1, 16), (1000, 4, 8), (3400, 8, 8), (4200, 16, 4)))
    config.train = dict(
        num_steps=5000, learning_rate=1e-3, final_learning_rate=5e-5, warmup_steps=100,
        weight_decay=0.01, remat_segments=False, segment_unroll=8, eval_every_steps=1700)
    config.checkpoint = dict(every_steps=250)
    config.eval = dict(lengths=("0k", "1k", "2k", "4k"), num_samples=500, during_training=50,
                       batch_size=50)
    return config
