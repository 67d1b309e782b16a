"""No document of a row sees another one: token by token, in each kind of memory and the window."""

import types

import jax
import model_cases
import numpy as np
import pytest

from lm2_jax.data.shards.manifest import INDEX
from lm2_jax.data.shards.packing import Rows
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

S = 6
CASES = {
    "lm2 and a long window": model_cases.make_config(T=4, M=3, P=2, window=11),
    "rmt and window": model_cases.CASES["memory tokens and window"],
    "armt and window": model_cases.CASES["associations and window"],
    "delta and window": model_cases.make_config(T=6, P=1, kind="delta", window=4),
}


def row_of_documents(T):
    """A row of three documents, the first of more than a segment, and the document of each token;
    -1 is padding."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, model_cases.V, size).astype(np.int32)
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


@pytest.mark.parametrize("name", CASES)
def test_a_changed_token_changes_its_own_document_alone(name):
    config = CASES[name]
    model, variables = LanguageModel(config), model_cases.variables(config)
    row, of_token = row_of_documents(config.segment_length)
    B = len(of_token)  # in row i token i changes, padding too

    @jax.jit
    def logits(tokens_BL, valid_BL, reset_BS):
        return apply_segments(model, variables, tokens_BL, init_state(config, B), valid_BL,
                              reset_BS).logits

    tokens, valid, reset = (np.tile(part, (B, 1)) for part in (
        row.tokens_BL, row.valid_BL, row.reset_BS))
    changed = tokens + np.eye(B, dtype=np.int32) * np.where(tokens == model_cases.V - 1, -1, 1)
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
