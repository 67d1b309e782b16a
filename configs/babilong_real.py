"""BABILong's qa1 from real bAbI files in real books, evaluated at 0k to 4k tokens.

    lm2 train --config=babilong_real --workdir=runs/babilong_real \\
        --config.data.babi=BABI/en-10k --config.data.background=BOOKS/train \\
        --config.eval.background=BOOKS/test

BABI is a folder of bAbI files, BOOKS/train and BOOKS/test are folders of text files. The model is
trained on the training split and the training books, with up to 32 segments of 24 tokens, and
evaluated on the test split and the test books. The write is the paper's.
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
        tasks=("qa1",), tokenizer_vocab_size=1024, deferred=True, bare_fraction=0.5,
        vary_length=False,
        curriculum=((0, 1, 40), (700, 2, 30), (2500, 4, 16), (3800, 8, 10), (4700, 32, 4)))
    config.train = dict(
        num_steps=6500, learning_rate=1e-3, final_learning_rate=5e-5, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, advance_accuracy=0.96,
        eval_every_steps=800)
    config.checkpoint = dict(every_steps=100)
    config.eval = dict(lengths=("0k", "1k", "2k", "4k"), num_samples=500, during_training=50,
                       batch_size=50)
    return config
