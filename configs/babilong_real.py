"""BABILong's qa1 from real bAbI files in real books, evaluated at 0k to 128k tokens.

    lm2 train --config=babilong_real --workdir=runs/babilong_real \\
        --config.data.babi=BABI/en-10k --config.data.background=BOOKS/train \\
        --config.eval.background=BOOKS/test

BABI is a folder of bAbI files, BOOKS/train and BOOKS/test are folders of text files. The model is
trained on the training split and the training books, and evaluated on the test split and the test
books. The recipe is that of rivals.py, with more steps for four persons: samples have up to eight
segments of 24 tokens, and in the last stage each begins with the memory that another one left. A
fifth of the samples has its questions right behind the facts, as short contexts have.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=24, attention_window=24, rope_theta=10.0,
        memory=dict(num_slots=16, num_heads=4, num_layers=3, output_gate_bias=-1.0))
    config.data = dict(
        tasks=("qa1",), tokenizer_vocab_size=1024, deferred=True, deferred_fraction=0.8,
        bare_fraction=0.5, vary_length=False, sample_segments=8, passed_states=1.0,
        curriculum=((0, 1, 40), (400, 2, 24), (2600, 3, 16), (3200, 4, 12), (3800, 8, 8),
                    (8400, 32, 2)))
    config.train = dict(
        num_steps=10_000, learning_rate=1e-3, final_learning_rate=5e-5, warmup_steps=50,
        weight_decay=0.01, remat_segments=False, bptt_segments=8, window_from_segments=3,
        write_cost=0.1, write_cost_from=8400)
    config.checkpoint = dict(every_steps=100)
    config.eval = dict(
        lengths=("0k", "1k", "4k", "16k", "64k", "128k"), num_samples=300,
        max_samples=(300, 300, 300, 100, 30, 30), reset_up_to="4k", batch_size=50)
    return config
