"""What a sample's tokens are part of: prose, a fact, a question, an answer."""

import numpy as np

from lm2_jax.data.babilong.encoder import Encoder, Piece

PROSE, FACT, QUESTION, ANSWER = range(4)


def kinds_of(tokens: np.ndarray, encoder: Encoder) -> np.ndarray:
    """The kind of each token, found by the pieces that the encoder has encoded so far."""
    kinds = np.full(len(tokens), PROSE)
    known = {piece.tokens.tobytes(): (piece, kind) for kind, pieces in (
        (FACT, encoder.facts), (QUESTION, encoder.questions)) for piece in pieces.values()}
    for fact in encoder.facts.values():  # as they stand at the start of a context
        opening = encoder.without_blank(fact.tokens)
        known[opening.tobytes()] = Piece(opening, len(opening)), FACT
    for size in {len(piece.tokens) for piece, _ in known.values()}:
        for start in range(len(tokens) - size + 1):
            if found := known.get(tokens[start:start + size].tobytes()):
                piece, kind = found
                kinds[start:start + piece.answer] = kind
                kinds[start + piece.answer:start + size] = ANSWER
    return kinds
