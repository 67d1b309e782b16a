"""Facts and questions as tokens, and samples made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lm2_jax.data.babi.story import Question
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError


@dataclass(frozen=True)
class Piece:
    """A fact, or a question with its answer.

    Attributes:
      tokens: int32 [n].
      answer: index in `tokens` where the answer begins, which ends the piece; n for a fact.
    """

    tokens: np.ndarray
    answer: int


@dataclass(frozen=True)
class Sample:
    """A whole sample.

    Attributes:
      tokens: int32 [L].
      answer: bool [L], True for the tokens of answers and their end marks.
    """

    tokens: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """Encodes facts and questions as pieces, each once.

    Attributes:
      tokenizer: encodes the texts.
      facts: the facts encoded so far, by text.
      questions: the questions encoded so far, by question and answer.
    """

    tokenizer: Tokenizer
    facts: dict[str, Piece] = field(default_factory=dict)
    questions: dict[tuple[str, str], Piece] = field(default_factory=dict)

    @cached_property
    def bos(self) -> Piece:
        """The tokens that begin a sample; none if the tokenizer puts nothing before a text."""
        tokens = np.asarray(self.tokenizer.bos_ids, np.int32)
        return Piece(tokens, len(tokens))

    def text(self, text: str) -> list[int]:
        """Returns the ids of a sentence within a text."""
        return sentence_ids(self.tokenizer, [text])[0]

    def answer(self, text: str) -> tuple[list[int], str]:
        """Returns the ids of an answer, and their decoded text.

        The decoded text is what a model that generates these ids answers, so that equal texts are
        equal tokens.

        Raises:
          UserError: if the decoded text is another answer, as the tokenizer does not know a word.
        """
        ids = self.text(text)
        decoded = self.tokenizer.decode(ids).strip()
        if _letters(decoded) != _letters(text):
            raise UserError(f"the tokenizer does not know all words of the answer {text!r}: it "
                            f"decodes as {decoded!r}; take one trained on texts that have them")
        return ids, decoded

    def fact(self, text: str) -> Piece:
        """Returns a fact as a piece."""
        piece = self.facts.get(text)
        if piece is None:
            tokens = np.asarray(self.text(text), np.int32)
            piece = self.facts[text] = Piece(tokens, len(tokens))
        return piece

    def without_blank(self, sentence: np.ndarray) -> np.ndarray:
        """Returns the ids of a sentence at the beginning of a text, without a blank before it.

        A sentence that decoding changes (one with an unknown word) is returned as it is.
        """
        if not self.survives(sentence):
            return sentence
        return np.asarray(self.tokenizer.encode(self.tokenizer.decode(sentence).strip()), np.int32)

    def survives(self, sentence: np.ndarray) -> bool:
        """Returns True if decoding and encoding give the ids of a sentence again."""
        text = self.tokenizer.decode(sentence).strip()
        return bool(text) and self.text(text) == sentence.tolist()

    def question(self, question: Question) -> Piece:
        """Returns the piece: question, answer mark, answer, end mark."""
        key = question.text, question.answer
        piece = self.questions.get(key)
        if piece is None:
            t = self.tokenizer
            ask = [*self.text(question.text), t.answer_id]
            tokens = np.asarray([*ask, *self.answer(question.answer)[0], t.end_id], np.int32)
            piece = self.questions[key] = Piece(tokens, len(ask))
        return piece


def _letters(text: str) -> str:
    """Removes what tokenizers may change in a text: white space and case."""
    return "".join(text.split()).casefold()


def sentence_ids(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each sentence, encoded with the blank before it."""
    return tokenizer.encode_batch([" " + sentence for sentence in sentences])
