"""The sentences and words of a tokenized text, and the sentence that holds an answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm2_jax.data.babilong.kinds import FACT, QUESTION
from lm2_jax.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sentence:
    """Tokens `start` to `end` (exclusive) of a text.

    Attributes:
      kind: of its first token (`data.babilong.kinds`).
      text: decoded.
    """

    start: int
    end: int
    kind: int
    text: str

    def segments(self, segment_length: int) -> tuple[int, int]:
        """The first and the last segment that hold a part of it."""
        return self.start // segment_length, (self.end - 1) // segment_length


def words(tokens: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The text of each token; the answer mark is "<answer>", others without a text are "_"."""
    return ["<answer>" if token == tokenizer.answer_id else tokenizer.decode([token]).strip()
            or "_" for token in tokens]


def sentences(tokens: np.ndarray, kinds: np.ndarray, tokenizer: Tokenizer) -> list[Sentence]:
    """Splits a text after . ? and !, at line breaks, and where the kind of the tokens changes.

    What has no word is left out. Unknown words are "_".
    """
    ends = np.array([re.search(r"[.?!]\W*$|\n", tokenizer.decode([token])) is not None
                     for token in tokens])
    ends[:-1] |= np.diff(kinds) != 0
    ends[-1] = True
    stops = (np.flatnonzero(ends) + 1).tolist()
    found = [Sentence(start, stop, int(kinds[start]), _text(tokens[start:stop], tokenizer))
             for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    return [sentence for sentence in found if _words(sentence.text)]


def supporting(found: Sequence[Sentence], question: str, answer: str, end: int,
               must_answer: bool = False) -> Sentence | None:
    """The sentence before token `end` that most likely answers a question.

    It is the one that holds the answer, then a fact rather than prose, then the one with the most
    words of the question, then the last. None if there is no such sentence.

    Args:
      must_answer: the sentence must hold the answer; otherwise it may be a fact without it.
    """
    asked, wanted = _words(question), _words(answer)

    def rank(sentence: Sentence) -> tuple:
        said = _words(sentence.text)
        return wanted <= said, sentence.kind == FACT, len(asked & said), sentence.start

    before = [s for s in found if s.end <= end and s.kind != QUESTION]
    best = max(before, key=rank, default=None)
    return best if best and any(rank(best)[:1 if must_answer else 2]) else None


def _text(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    known = tokens != (-1 if tokenizer.unk_id is None else tokenizer.unk_id)
    borders = np.flatnonzero(np.diff(known)) + 1
    return " ".join(tokenizer.decode(part).strip() if is_known else "_" for part, is_known in zip(
        np.split(tokens, borders), known[[0, *borders]], strict=True)).strip()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
