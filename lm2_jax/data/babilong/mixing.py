"""BABILong samples: the facts of a story scattered through background prose.

Facts keep their order; the places where they are put are sorted uniform draws over the gaps
between background sentences; sentences are tokenized one by one; the length in tokens is met
exactly. Everything random comes from the generator that is passed in.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lm2_jax.data.babi.story import Question, Story
from lm2_jax.data.text.background import Passage, TokenizedBackground
from lm2_jax.data.text.pieces import Text
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError


@dataclass(frozen=True)
class Piece:
    """A fact, or a question with its answer.

    Attributes:
      tokens: int32 [n].
      answer: where in `tokens` the answer begins (it goes on to the end); n for a fact.
    """

    tokens: np.ndarray
    answer: int


@dataclass(frozen=True)
class Sample:
    """Tokens of a whole sample and which of them are answers (with their end mark).

    Attributes:
      tokens: int32 [L].
      answer: bool [L].
    """

    tokens: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """Facts and questions as pieces; each is encoded once.

    Attributes:
      tokenizer: what encodes them.
      facts: those encoded so far, by their text.
      questions: likewise, by question and answer.
    """

    tokenizer: Tokenizer
    facts: dict[str, Piece] = field(default_factory=dict)
    questions: dict[tuple[str, str], Piece] = field(default_factory=dict)

    @cached_property
    def bos(self) -> Piece:
        """What a sample begins with; empty for a tokenizer that puts nothing before a text."""
        tokens = np.asarray(self.tokenizer.bos_ids, np.int32)
        return Piece(tokens, len(tokens))

    def text(self, text: str) -> list[int]:
        return sentence_ids(self.tokenizer, [text])[0]

    def answer(self, text: str) -> tuple[list[int], str]:
        """The ids of an answer, and the answer as decoding writes it: an exact match of texts is
        then one of tokens.

        Raises:
          UserError: the tokenizer does not know all of it, so that decoding gives something else.
        """
        ids = self.text(text)
        decoded = self.tokenizer.decode(ids).strip()
        if _letters(decoded) != _letters(text):
            raise UserError(f"the tokenizer does not know all words of the answer {text!r}: it "
                            f"decodes as {decoded!r}; take one trained on texts that have them")
        return ids, decoded

    def fact(self, text: str) -> Piece:
        piece = self.facts.get(text)
        if piece is None:
            tokens = np.asarray(self.text(text), np.int32)
            piece = self.facts[text] = Piece(tokens, len(tokens))
        return piece

    def without_blank(self, sentence: np.ndarray) -> np.ndarray:
        """The ids of a sentence that opens a text, where no blank stands before it.

        A sentence that does not survive decoding (one with an unknown word) is returned as it is.
        """
        if not self.survives(sentence):
            return sentence
        return np.asarray(self.tokenizer.encode(self.tokenizer.decode(sentence).strip()), np.int32)

    def survives(self, sentence: np.ndarray) -> bool:
        """Whether the ids of a sentence are the same after decoding and encoding."""
        text = self.tokenizer.decode(sentence).strip()
        return bool(text) and self.text(text) == sentence.tolist()

    def question(self, question: Question) -> Piece:
        """question <answer> answer <end>"""
        key = question.text, question.answer
        piece = self.questions.get(key)
        if piece is None:
            t = self.tokenizer
            ask = [*self.text(question.text), t.answer_id]
            tokens = np.asarray([*ask, *self.answer(question.answer)[0], t.end_id], np.int32)
            piece = self.questions[key] = Piece(tokens, len(ask))
        return piece


def _letters(text: str) -> str:
    """Without what tokenizers may change in a text: white space and case."""
    return "".join(text.split()).casefold()


def sentence_ids(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[list[int]]:
    """The ids of each sentence with the blank that stands before it in a text."""
    return tokenizer.encode_batch([" " + sentence for sentence in sentences])


def pieces_of(story: Story, encoder: Encoder, last: int, *, dense: bool) -> list[Piece]:
    """The story up to its question number `last`, in the order of telling.

    With `dense` every question on the way is asked where it stands, else only the last one,
    at the end.
    """
    pieces, told = [], 0
    for number, question in enumerate(story.questions[:last + 1]):
        pieces += map(encoder.fact, story.facts[told:question.num_facts])
        told = question.num_facts
        if dense or number == last:
            pieces.append(encoder.question(question))
    return pieces


def fitting(story: Story, encoder: Encoder, room: int, *, dense: bool) -> int:
    """How many of the story's questions can be the last of a sample of `room` tokens."""
    used = told = asked = count = 0
    for question in story.questions:
        for fact in story.facts[told:question.num_facts]:
            used += len(encoder.fact(fact).tokens)
        told = question.num_facts
        ask = len(encoder.question(question).tokens)
        if used + asked + ask > room:
            break
        asked += ask if dense else 0
        count += 1
    return count


def mix(pieces: Sequence[Piece], length: int, background: TokenizedBackground,
        rng: np.random.Generator, *, last_at_end: bool, facts_end: int | None = None) -> "Mixture":
    """Pieces among background prose, `length` tokens in all.

    Args:
      pieces: in order; together at most `length` tokens.
      length: of the sample; 0 = the pieces alone.
      last_at_end: put the last piece (the question) behind all else; otherwise its place is
        drawn like the others'.
      facts_end: the other pieces end at or before this token.

    Raises:
      ValueError: if the pieces do not fit.
    """
    sizes = np.array([len(p.tokens) for p in pieces])
    total = int(sizes.sum())
    scattered = len(pieces) - last_at_end
    room = length - total if length else 0
    end = room if facts_end is None else facts_end - int(sizes[:scattered].sum())
    if room < 0 or end < 0:
        raise UserError(f"{total} tokens of facts and questions do not fit a sample of {length} "
                         f"tokens (facts until {facts_end})")
    noise = background.passage(int(rng.integers(background.num_sentences)), room)
    gaps = noise.sentences_before(end + 1) + (end >= room)
    cuts = np.full(len(pieces), room)
    cuts[:scattered] = noise.borders(np.sort(rng.integers(0, gaps, scattered)))
    return Mixture(pieces, cuts, noise)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Prose with pieces put in; a part of it is made when it is asked for.

    Attributes:
      pieces: in order.
      cuts: int [len(pieces)], not falling, from 0 to len(noise): before which token of the noise
        each piece stands.
      noise: int32 tokens, or what gives them by slices.
    """

    pieces: Sequence[Piece]
    cuts: np.ndarray
    noise: np.ndarray | Passage

    @property
    def _passage(self) -> Passage:
        if not isinstance(self.noise, Passage):
            raise TypeError("only prose that is a passage has sentences")
        return self.noise

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(p.tokens) for p in self.pieces])

    @cached_property
    def _told(self) -> np.ndarray:
        return np.concatenate([p.tokens for p in self.pieces])

    @cached_property
    def _places(self) -> np.ndarray:
        """Where each token of the pieces stands: before token i of theirs are i of theirs and as
        much prose as its piece's cut."""
        return np.arange(len(self._told)) + np.repeat(self.cuts, self._sizes)

    def __len__(self) -> int:
        return len(self._told) + len(self.noise)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens, int32."""
        first, stop, _ = part.indices(len(self))
        stop = max(first, stop)
        i, j = np.searchsorted(self._places, [first, stop])
        tokens = np.empty(stop - first, np.int32)
        prose = np.ones(stop - first, bool)
        prose[self._places[i:j] - first] = False
        tokens[prose] = self.noise[first - int(i):stop - int(j)]
        tokens[~prose] = self._told[i:j]
        return tokens

    def after(self, piece: Piece) -> "Mixture":
        """The same with a piece before it."""
        return Mixture([piece, *self.pieces], np.append(0, self.cuts), self.noise)

    def sentences(self) -> Iterator[np.ndarray]:
        """The sentences of the prose, which is a passage, and the pieces, in order; int32 each.

        Prose that is cut to fit does not end its last sentence: as in a text, the piece after it
        is a part of that sentence.
        """
        noise = self._passage
        borders = noise.borders(np.arange(noise.sentences_before(len(noise)) + 1))
        pieces = collections.deque(zip(self.cuts.tolist(), self.pieces, strict=True))
        for begin, end in itertools.pairwise(borders.tolist()):
            while pieces and pieces[0][0] <= begin:
                yield pieces.popleft()[1].tokens
            sentence = noise[begin:end]
            if pieces and end == len(noise) and len(sentence) < len(self.last_prose()[1]):
                sentence = np.concatenate([sentence, pieces.popleft()[1].tokens])
            yield sentence
        yield from (piece.tokens for _, piece in pieces)

    @property
    def pieces_end(self) -> int:
        """Where the last piece ends."""
        return int(self._places[-1]) + 1

    def opened(self, opening: Callable[[np.ndarray], np.ndarray], length: int
               ) -> "Mixture | None":
        """The mixture with another first sentence, and less or more prose at its end.

        Args:
          opening: the ids of the first sentence to those in its place.
          length: tokens in all; 0 = no prose is added or left out.

        Returns:
          None if the new sentence has no room.
        """
        noise = self._passage
        first = self.pieces[0].tokens if self.cuts[0] == 0 else \
            noise[:int(noise.borders(np.array([1]))[0])]
        opened, old_room = opening(first), len(noise)
        if np.array_equal(opened, first):
            return self
        piece, start = Piece(opened, len(opened)), noise.start
        if self.cuts[0] == 0:
            pieces, cuts = [piece, *self.pieces[1:]], self.cuts
        else:  # the sentence is prose: it becomes a piece, and the prose begins with the next one
            pieces = [piece, *self.pieces]
            cuts = np.concatenate([[0], self.cuts - len(first)])
            start, old_room = start + 1, old_room - len(first)
        room = length - sum(len(p.tokens) for p in pieces) if length else old_room
        if room < 0:
            return None
        cuts = np.where(cuts == old_room, room, np.minimum(cuts, room))
        return Mixture(pieces, cuts, noise.background.passage(start, room))

    def last_prose(self) -> tuple[np.ndarray, np.ndarray]:
        """The last sentence of the prose, which is a passage, as it was cut to fit and whole."""
        noise = self._passage
        last = noise.sentences_before(len(noise)) - 1
        begin = int(noise.borders(np.array([last]))[0])
        number = (noise.start + last) % noise.background.num_sentences
        size = int(np.diff(noise.background.starts[number:number + 2])[0])
        return noise[begin:], noise.background.passage(number, size)[:]

    def sample(self) -> Sample:
        """All of it, and where the answers are."""
        first_answers = np.cumsum(self._sizes) - self._sizes + [p.answer for p in self.pieces]
        answer = np.zeros(len(self), bool)
        answer[self._places] = np.arange(len(self._told)) >= np.repeat(first_answers, self._sizes)
        return Sample(self[:], answer)


@dataclass(frozen=True, eq=False)
class Joined:
    """Tokens one after another, each an array or what gives it by slices; so is this.

    Attributes:
      parts: int32 tokens.
    """

    parts: tuple[np.ndarray | Mixture | Text, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens, int32."""
        first, stop, _ = part.indices(len(self))
        taken, begin = [], 0
        for tokens in self.parts:
            taken.append(tokens[max(first - begin, 0):max(stop - begin, 0)])
            begin += len(tokens)
        return np.concatenate(taken)
