"""A row of several documents, none of which may see another."""

import types

import jax
import numpy as np

from lm2_jax.data.shards.manifest import INDEX
from lm2_jax.data.shards.packing import Rows
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

S = 6


def row_of_documents(T, vocab_size):
    """A row of three documents, the first of more than a segment, and the document of each token;
    -1 is padding."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, vocab_size, size).astype(np.int32)
                 for size in (2 * T + 3, T // 2 + 1, T + 2)]
    index = np.array([(len(tokens), 0, 0, 0) for tokens in documents], INDEX)
    corpus = types.SimpleNamespace(shards=[None], index=lambda shard: index,
                                   read=lambda shard, number: (documents[number], 0))
    rows = Rows(corpus, S, T, 0, 0.0)
    assert len(rows) == 1
    of_token = np.full(S * T, -1)
    segment = 0
    for piece in rows.pieces(0)[1]:
        n = len(documents[piece.document]) - 1
        of_token[segment * T:segment * T + n] = piece.document
        segment += piece.segments
    return rows[0], of_token


def check_isolation(config, variables):
    """A changed token changes the logits of its own document alone, and each document has the same
    logits alone in a row."""
    model = LanguageModel(config)
    row, of_token = row_of_documents(config.segment_length, config.vocab_size)
    B = len(of_token)  # in row i token i changes, padding too

    @jax.jit
    def logits(tokens_BL, valid_BL, reset_BS):
        return apply_segments(model, variables, tokens_BL, init_state(config, B), valid_BL,
                              reset_BS).logits

    tokens, valid, reset = (np.tile(part, (B, 1)) for part in (
        row.tokens_BL, row.valid_BL, row.reset_BS))
    changed = tokens + np.eye(B, dtype=np.int32) * np.where(tokens == config.vocab_size - 1, -1, 1)
    before, after = (np.asarray(logits(rows, valid, reset)) for rows in (tokens, changed))
    for place in range(B):
        others = (of_token != of_token[place]) & (of_token >= 0)
        np.testing.assert_array_equal(before[place, others], after[place, others])
        if of_token[place] >= 0:
            own = (of_token == of_token[place]) & (np.arange(B) >= place)
            assert (before[place, own] != after[place, own]).any()

    # Alone in a row, each document has the same logits: also its positions count from its start.
    alone, there = np.zeros_like(tokens), [np.flatnonzero(of_token == i) for i in range(3)]
    for document, where in enumerate(there):
        alone[document, :len(where)] = row.tokens_BL[where]
        valid[document], reset[document] = np.arange(B) < len(where), np.arange(S) == 0
    found = np.asarray(logits(alone, valid, reset))
    for document, where in enumerate(there):
        np.testing.assert_array_equal(found[document, :len(where)], before[document, where])
