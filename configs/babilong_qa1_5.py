"""One model for BABILong's qa1 to qa5, from real bAbI files in real books, sized for one GPU.

    lm2 train --config=babilong_qa1_5 --workdir=runs/babilong_qa1_5 \\
        --config.data.babi=BABI/en-10k --config.data.background=BOOKS/train \\
        --config.eval.background=BOOKS/test

BABI is a folder of bAbI files, BOOKS/train and BOOKS/test are folders of text files. A file with
few stories is soon known by heart (qa3's has 200 in some copies): without data.babi, training draws
from the simulator, whose stories have the words and statistics of the files, and
--config.eval.babi=BABI/en-10k evaluates on their test split.

The model has 19 M parameters and reads segments of 256 tokens. In half of the samples all questions
are asked in a later segment than their facts; the others are laid out as in the evaluation. In the
last stage a row has two samples of 16 segments, and half of the second samples begin with the
memory that the first one left; from step 6,400 on open slots have a cost. Attention sees the
segment before in rows of three segments and more, so that the memory learns to carry facts first.

`babilong_qa1_5:cpu` is a model of 1 M parameters and segments of 64 tokens, to try the same path on
a CPU. launch/pieces.sh trains this config in pieces, on machines that do not last.
"""

from ml_collections import ConfigDict

SEGMENTS = 16  # of a sample; the rows of the last stage have two


def get_config(name: str = "gpu") -> ConfigDict:
    if name not in ("gpu", "cpu"):
        raise ValueError(f"there is no size {name}; the sizes are gpu, cpu")
    config = ConfigDict()
    config.seed = 0
    config.data = dict(
        # Samples of qa4 have one question; a third of qa3's stories are too long to be deferred.
        tasks=("qa1", "qa2", "qa3", "qa4", "qa5"), task_weights=(1.0, 1.5, 2.0, 2.0, 1.25),
        tokenizer_vocab_size=4096, deferred=True, deferred_fraction=0.5, bare_fraction=0.2,
        vary_length=False, sample_segments=SEGMENTS, passed_states=0.5)
    config.train = dict(
        weight_decay=0.01, bptt_segments=SEGMENTS, advance_accuracy=0.97, write_cost=0.3,
        window_from_segments=3)
    config.eval = dict(
        lengths=("4k", "32k", "128k"), num_samples=300, max_samples=(300, 200, 100),
        reset_up_to="4k", batch_size=100)
    memory = dict(num_slots=32, output_gate_bias=-1.0)
    if name == "gpu":
        config.model = dict(
            embed_dim=384, num_layers=6, num_heads=6, num_kv_heads=6, mlp_dim=1024,
            segment_length=256, attention_window=256, rope_theta=100.0, dtype="bfloat16",
            memory=dict(num_heads=6, num_layers=6, **memory))
        config.data.num_workers = 8  # short rows are trained on faster than one process makes them
        config.data.curriculum = (
            (0, 1, 256), (1500, 2, 128), (2700, 3, 112), (3500, 4, 96), (4400, 8, 64),
            (5400, 16, 48), (6400, 2 * SEGMENTS, 24))
        # A third of configs/babilong_real.py's rate, as the model is three times as wide, and half
        # as much again, as a batch has more answers.
        config.train.update(num_steps=8000, learning_rate=5e-4, final_learning_rate=2e-5,
                            warmup_steps=200, write_cost_from=6400, advance_every=100)
        config.checkpoint = dict(every_steps=500)
    else:
        config.model = dict(
            embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
            segment_length=64, attention_window=64, rope_theta=30.0,
            memory=dict(num_heads=4, num_layers=3, **memory))
        config.data.tokenizer_vocab_size = 1024
        config.data.task_weights = (1.0, 1.5, 4.0, 1.5, 2.0)  # more stories are too long
        config.data.curriculum = (
            (0, 1, 32), (1500, 2, 16), (2700, 3, 14), (3500, 4, 12), (4400, 8, 8),
            (5400, 16, 4), (6400, 2 * SEGMENTS, 2))
        config.train.update(num_steps=8000, learning_rate=1e-3, final_learning_rate=5e-5,
                            warmup_steps=100, write_cost_from=6400)
        config.checkpoint = dict(every_steps=200)
        config.eval.update(num_samples=50, max_samples=(50, 20, 10), batch_size=50)
    return config
