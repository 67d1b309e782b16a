"""A language model of books, tokenized here: a million parameters, some minutes on two CPU cores.

    lm2 train --config=books --workdir=runs/books

Two folders of texts become shards first, BOOKS/train and BOOKS/test, say. The first command also
trains the tokenizer, which the second one takes:

    lm2 data tokenize BOOKS/train --tokenizer=bpe --vocab-size=2048 --held-out=0.1 \\
        --out=shards/books
    lm2 data --config=books

Books are long, so that every row is full: a row has eight segments of 64 tokens of one book, and
what is in the memory at its end is not carried into the next row. A tenth of the books is held out,
chosen by a hash of their content; the loss on them is printed every 100 steps. At the end their
perplexity is measured by segment, with the memory carried and wiped. Give one text a line
({"text": ...} in a .jsonl file) for shorter documents.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = dict(
        embed_dim=128, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=256,
        segment_length=64, rope_theta=100.0,
        memory=dict(num_slots=16, num_heads=4, num_layers=3))
    config.data = dict(
        source="corpus", corpora=("shards/books",), curriculum=((0, 1, 64), (200, 8, 8)))
    config.train = dict(
        num_steps=1000, learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=50,
        remat_segments=False, eval_every_steps=100)
    config.checkpoint = dict(every_steps=100)
    config.eval = dict(lengths=(), batch_size=64)
    return config
