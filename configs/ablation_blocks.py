"""Memory in the first 0, 1, 6, 12 or 16 of 16 blocks, at equal parameters: perplexity of books.

    lm2 train --config=ablation_blocks:blocks_1 --workdir=runs/ablation_blocks/blocks_1_seed0

The LM2 paper compares perplexity over the tokens seen for such models (its Figure 5). Books become
shards first; a quarter of them is held out, chosen by a hash of their content:

    lm2 data tokenize BOOKS --tokenizer=bpe --vocab-size=2048 --held-out=0.25 \\
        --out=shards/ablation_books

The first command trains every run with three seeds and measures the perplexity of the held-out
books; its sweep.md has the table, and held_out.png the loss over the tokens seen. The others print
the same for some of the runs, and how one run does by segment:

  lm2 sweep --config=ablation_blocks --out=runs/ablation_blocks --seeds=0,1,2
  lm2 report runs/ablation_blocks/{blocks_0,blocks_16,llama}_seed* --out=runs/ablation_report
  lm2 eval --config=ablation_blocks:blocks_16 --workdir=runs/ablation_blocks/blocks_16_seed0

Names of runs:

  blocks_N  a memory in the first N blocks; attention sees the segment only
  llama     no memory; attention sees all earlier tokens of a row

A step reads 8 rows of 8 segments of 64 tokens, so that a run sees 2.05 M tokens. The MLP is wider
where there is less memory, and numbers of parameters are equal within 0.5 %.
"""

from ml_collections import ConfigDict

MLP_DIMS = {0: 600, 1: 576, 6: 472, 12: 340, 16: 256}  # by the number of blocks with a memory
RUNS = {f"blocks_{count}": {"mlp_dim": mlp_dim, "memory": {"num_layers": count}}
        for count, mlp_dim in MLP_DIMS.items()}
# A larger RoPE base, since attention looks further back.
RUNS["llama"] = RUNS["blocks_0"] | {"attention_window": 448, "rope_theta": 1000.0}


def get_config(name: str = "blocks_16") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=16, num_heads=4, num_kv_heads=4, segment_length=64,
        rope_theta=100.0) | RUNS[name]
    config.model.memory = dict(num_slots=16, num_heads=4) | RUNS[name]["memory"]
    config.data = dict(
        source="corpus", corpora=("shards/ablation_books",), curriculum=((0, 8, 8),))
    config.train = dict(
        num_steps=500, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=50,
        remat_segments=False, eval_every_steps=50, held_out_batches=16)
    config.checkpoint = dict(every_steps=100)
    config.eval = dict(lengths=(), batch_size=8, max_document_segments=256)
    return config
