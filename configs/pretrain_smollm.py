"""Pretraining as in the paper: its model of 1.8 B parameters on SmolLM-Corpus, 248 B tokens.

    lm2 train --config=pretrain_smollm --workdir=runs/pretrain_smollm

The paper's mixture is cosmopedia-v2 (28 B tokens) and fineweb-edu-dedup (220 B); the third part of
the corpus, python-edu, is left out, as it is published without its texts. These commands fetch both
and tokenize them; LLAMA3 is a folder with the tokenizer of Llama 3:

    hf download HuggingFaceTB/smollm-corpus --repo-type=dataset --local-dir=smollm-corpus \\
        --include="cosmopedia-v2/*" --include="fineweb-edu-dedup/*"
    lm2 data tokenize smollm-corpus/cosmopedia-v2 --tokenizer=LLAMA3 --held-out=0.0005 \\
        --out=shards/cosmopedia-v2
    lm2 data tokenize smollm-corpus/fineweb-edu-dedup --tokenizer=LLAMA3 --held-out=0.0005 \\
        --out=shards/fineweb-edu-dedup

One process reads the texts and writes the shards, whatever the number of processes that tokenize.
Where it is too slow for them, tokenize parts of the files by a command each, and give all folders
in data.corpora, with a weight each.

The model is that of configs/lm2_1b7.py. Its segments have 512 tokens, not 2048: a document of the
mixture has about 1,100 tokens, and one that is no longer than a segment trains no memory. Documents
begin at segment borders, which leaves a fifth of a row as padding, and half of it or more with
segments of 2048. 300,000 steps of 1 M tokens read each document once. The next commands print the
memory that a device needs, without any shards. Chips with more memory than a v5e read more rows at
a time, since they exchange the parameters less often then:

    lm2 compile --config=pretrain_smollm --topology=v5e:16x16
    lm2 compile --config=pretrain_smollm --topology=v5p:4x4x4 --config.train.rows_per_device=4
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        vocab_size=128_256, embed_dim=2048, num_layers=16, num_heads=32, num_kv_heads=8,
        mlp_dim=8192, segment_length=512, rope_theta=500_000.0,
        rope_scaling=dict(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position=8192),
        tie_embeddings=True, dtype="bfloat16", remat="full",
        memory=dict(num_slots=2048, num_heads=8, num_layers=16))
    config.data = dict(
        source="corpus", corpora=("shards/cosmopedia-v2", "shards/fineweb-edu-dedup"),
        corpus_weights=(28.0, 220.0), num_workers=4,
        curriculum=((0, 2, 1024), (20_000, 8, 256)))
    config.train = dict(
        num_steps=300_000, learning_rate=3e-4, final_learning_rate=3e-5, warmup_steps=2000,
        weight_decay=0.1, beta2=0.95, rows_per_device=1, loss_chunk_tokens=512,
        eval_every_steps=2000, held_out_batches=16)
    config.checkpoint = dict(every_steps=1000)
    config.eval = dict(lengths=(), batch_size=256)
    config.mesh = dict(data=-1, fsdp=-1, tensor=-1)
    return config
