"""BABILong samples: the facts of a story scattered through background prose.

Facts keep their order. Their positions are sorted uniform draws over the gaps between background
sentences. Sentences are tokenized one by one, and the length in tokens is met exactly. All
randomness comes from the generator that is passed in.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lm2_jax.data.babi.story import Story
from lm2_jax.data.babilong.encoder import Encoder, Piece, Sample
from lm2_jax.data.text.background import Passage, TokenizedBackground
from lm2_jax.data.text.pieces import Text
from lm2_jax.errors import UserError


def pieces_of(story: Story, encoder: Encoder, last: int, *, dense: bool) -> list[Piece]:
    """Returns the facts and questions of a story up to question number `last`, in order.

    Args:
      dense: include the earlier questions too, each at its place in the story.
    """
    pieces, num_facts = [], 0
    for number, question in enumerate(story.questions[:last + 1]):
        pieces += map(encoder.fact, story.facts[num_facts:question.num_facts])
        num_facts = question.num_facts
        if dense or number == last:
            pieces.append(encoder.question(question))
    return pieces


def fitting(story: Story, encoder: Encoder, room: int, *, dense: bool) -> int:
    """Returns how many questions of a story can be the last one of a sample of `room` tokens."""
    fact_tokens = question_tokens = num_facts = count = 0
    for question in story.questions:
        for fact in story.facts[num_facts:question.num_facts]:
            fact_tokens += len(encoder.fact(fact).tokens)
        num_facts = question.num_facts
        size = len(encoder.question(question).tokens)
        if fact_tokens + question_tokens + size > room:
            break
        question_tokens += size if dense else 0
        count += 1
    return count


def mix(pieces: Sequence[Piece], length: int, background: TokenizedBackground,
        rng: np.random.Generator, *, last_at_end: bool, facts_end: int | None = None) -> "Mixture":
    """Scatters pieces through background prose.

    Args:
      pieces: in order; together at most `length` tokens.
      length: tokens of the result; 0 = the pieces without prose.
      last_at_end: put the last piece (the question) at the end; otherwise its position is drawn
        like those of the others.
      facts_end: the token at or before which the other pieces end; None = the end.

    Raises:
      UserError: if the pieces do not fit.
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
    """Prose with pieces inserted; tokens are made when they are sliced.

    Attributes:
      pieces: in order.
      cuts: int [len(pieces)], ascending, from 0 to len(noise): each piece is inserted before this
        token of the prose.
      noise: the prose, int32 tokens, or an object whose slices are such arrays.
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
    def _piece_tokens(self) -> np.ndarray:
        return np.concatenate([p.tokens for p in self.pieces])

    @cached_property
    def _positions(self) -> np.ndarray:
        """The position of each token of the pieces: i tokens of pieces come before token i of them,
        and as many tokens of prose as the cut of its piece says."""
        return np.arange(len(self._piece_tokens)) + np.repeat(self.cuts, self._sizes)

    def __len__(self) -> int:
        return len(self._piece_tokens) + len(self.noise)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens, int32."""
        first, stop, _ = part.indices(len(self))
        stop = max(first, stop)
        i, j = np.searchsorted(self._positions, [first, stop])
        tokens = np.empty(stop - first, np.int32)
        prose = np.ones(stop - first, bool)
        prose[self._positions[i:j] - first] = False
        tokens[prose] = self.noise[first - int(i):stop - int(j)]
        tokens[~prose] = self._piece_tokens[i:j]
        return tokens

    def after(self, piece: Piece) -> "Mixture":
        """Returns the mixture with one more piece at its beginning."""
        return Mixture([piece, *self.pieces], np.append(0, self.cuts), self.noise)

    def sentences(self) -> Iterator[np.ndarray]:
        """Yields the sentences of the prose, which must be a passage, and the pieces, in order.

        Where the prose is cut in the middle of its last sentence, the piece that follows belongs to
        that sentence, as it would for a reader of the text.
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
        """The position after the last piece."""
        return int(self._positions[-1]) + 1

    def opened(self, opening: Callable[[np.ndarray], np.ndarray], length: int
               ) -> "Mixture | None":
        """Returns the mixture with its first sentence replaced, cut or extended to a length.

        Args:
          opening: maps the ids of the first sentence to those that replace them.
          length: tokens of the result; 0 = the prose is neither cut nor extended.

        Returns:
          The mixture, or None if the new sentence does not fit.
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
        """Returns the last sentence of the prose, a passage: as it is cut, and whole."""
        noise = self._passage
        last = noise.sentences_before(len(noise)) - 1
        begin = int(noise.borders(np.array([last]))[0])
        number = (noise.start + last) % noise.background.num_sentences
        size = int(np.diff(noise.background.starts[number:number + 2])[0])
        return noise[begin:], noise.background.passage(number, size)[:]

    def sample(self) -> Sample:
        """Returns all tokens, and which of them are answers."""
        first_answers = np.cumsum(self._sizes) - self._sizes + [p.answer for p in self.pieces]
        answer = np.zeros(len(self), bool)
        answer[self._positions] = (np.arange(len(self._piece_tokens))
                                   >= np.repeat(first_answers, self._sizes))
        return Sample(self[:], answer)


@dataclass(frozen=True, eq=False)
class Joined:
    """The concatenation of parts; tokens are made when they are sliced.

    Attributes:
      parts: int32 arrays, or objects whose slices are such arrays.
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
