"""The paper's model for accelerators: Llama-3.2-1B with a memory in every block, 1.77 B parameters.

    lm2 train --config=lm2_1b7 --workdir=runs/lm2_1b7 \\
        --config.data.tokenizer=LLAMA3/tokenizer.json --config.data.background=BOOKS

As in section 3 of the paper, 1.24 B parameters are Llama's and 0.54 B the memory's: a bank of 2048
slots in each of the 16 blocks. The write is the default one; --config.model.memory.write=paper
takes the paper's, which has as many parameters. Segments have 2048 tokens. The mesh follows from
the number of devices, and each device takes one row at a time. This prints the memory that a device
needs:

    lm2 compile --config=lm2_1b7 --topology=v5e:4x4

A training step has 0.5 million tokens, which 16 chips of v5e or 64 of v5p take at full speed. On
64 chips of v6e or 256 of v5e each chip has too few tokens for the parameters that it receives in
the meantime; there, --config=lm2_1b7:4M has eight times the rows, up to four on a chip at a time.
Its learning rate is the same, untried.

Rematerialisation (model.remat, train.remat_segments) is set to the fastest that fits into the
16 GiB of a v5e:4x4 chip; larger topologies may fit a faster one, and `lm2 bench roofline` compares
all settings by their roofline bounds. Reports for four TPU topologies are in
configs/results/lm2_1b7_compile, a table of variants is in configs/results/lm2_1b7_roofline.
"""

from ml_collections import ConfigDict

RUNS = {"0.5M": 1, "4M": 8}  # tokens of a training step: multiples of the rows


def get_config(tokens: str = "0.5M") -> ConfigDict:
    if tokens not in RUNS:
        raise ValueError(f"there is no batch of {tokens} tokens; there are {', '.join(RUNS)}")
    times = RUNS[tokens]
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        vocab_size=128_256, embed_dim=2048, num_layers=16, num_heads=32, num_kv_heads=8,
        mlp_dim=8192, segment_length=2048, rope_theta=500_000.0,
        rope_scaling=dict(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position=8192),
        tie_embeddings=True, dtype="bfloat16", remat="full",
        memory=dict(num_slots=2048, num_heads=8, num_layers=16))
    config.data = dict(
        tasks=tuple(f"qa{number}" for number in range(1, 11)), tokenizer="bpe",
        tokenizer_vocab_size=32_000, bare_fraction=0.1, loss_on_all=0.1,
        curriculum=((0, 1, 256 * times), (10_000, 2, 128 * times), (20_000, 4, 64 * times),
                    (30_000, 8, 32 * times)))
    config.train = dict(
        num_steps=40_000, learning_rate=2e-4, final_learning_rate=2e-5, warmup_steps=700,
        weight_decay=0.1, beta2=0.95, eval_every_steps=5000,
        rows_per_device=1 if times == 1 else 4, loss_chunk_tokens=512)
    config.checkpoint = dict(every_steps=1000)
    config.eval = dict(lengths=("0k", "1k", "2k", "4k", "8k", "16k"), num_samples=100,
                       during_training=20, batch_size=32 * times)
    config.mesh = dict(data=-1, fsdp=-1, tensor=-1)
    return config
