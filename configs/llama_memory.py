"""A memory beside SmolLM2-135M, a trained Llama, taught to answer from BABILong samples in books.

    lm2 train --config=llama_memory:blocks_1 --init-from=runs/llama \\
        --workdir=runs/llama_memory/blocks_1 --config.data.background=BOOKS/train \\
        --config.eval.background=BOOKS/test --config.eval.corpora=shards/test_books

The name after the colon says which blocks get a memory: blocks_1 (the first), blocks_30 and
alone_30 (all), blocks_0 (none). The Llama is converted first, and the books that measure perplexity
become shards:

  lm2 convert from-hf LLAMA --workdir=runs/llama --segment-length=128
  lm2 data tokenize BOOKS/test --tokenizer=LLAMA --held-out=1 --out=shards/test_books

and the Llama before any training is evaluated in the same segments by

  lm2 eval --config=runs/llama/config.py --workdir=runs/llama \\
      --config.eval.corpora=shards/test_books --config.eval.max_document_segments=16

Every parameter is trained; in alone_30 the memories alone. blocks_0 shows what the texts do without
a memory. A row has two segments of 128 tokens, later four, of a bAbI story of two persons, half of
them in books. Books and stories have a tenth of the loss weight of answers. Other Llamas take their
own shape, with as many memories as `model.memory.num_layers` says; `model.memory.num_heads` must
divide their channels.
"""

from ml_collections import ConfigDict

RUNS = {"blocks_0": 0, "blocks_1": 1, "blocks_30": 30, "alone_30": 30}  # blocks with a memory


def get_config(name: str = "blocks_1") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name}; the runs are {', '.join(RUNS)}")
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, mlp_dim=1536,
        rope_theta=100000.0, segment_length=128,
        memory=dict(num_slots=16, num_heads=9, num_layers=RUNS[name]))
    config.data = dict(
        tasks=("qa1",), persons=2, turns_up_to=2, points_per_segment=4.0, questions_per_point=2,
        deferred=True, bare_fraction=0.5, vary_length=False, loss_on_all=0.1,
        curriculum=((0, 2, 2), (200, 4, 1)))
    config.train = dict(
        num_steps=300, learning_rate=2e-4, final_learning_rate=2e-5, warmup_steps=20,
        weight_decay=0.01, remat_segments=False)
    if name == "alone_30":
        config.train.trainable = ("*/memory/*",)
    config.checkpoint = dict(every_steps=50)
    config.eval = dict(
        lengths=("256", "512", "1k"), num_samples=30, batch_size=10, max_documents=10,
        max_document_segments=16)
    return config
