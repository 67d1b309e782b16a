"""Training samples with deferred questions, which can only be answered from the memory.

In a bAbI story, a question often follows its facts so closely that attention still reaches them.
Here, a question and its facts are in different segments. In samples that are shifted against the
segment borders, they can fall into the same segment.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np

from lm2_jax.data.babi.story import Story
from lm2_jax.data.babilong.encoder import Encoder, Piece, Sample
from lm2_jax.data.babilong.mixing import Mixture
from lm2_jax.data.text.background import TokenizedBackground

SHIFTED_SHARE = 0.5  # of the samples of three segments or more
QUESTIONS_FIRST_SHARE = 0.5  # of the segments: questions at the beginning are learned first

Point = tuple[list[Piece], list[Piece]]
"""A question point: new facts, and the questions that follow them."""


@dataclass
class _Segment:
    """The pieces of a segment; its questions precede its facts."""

    questions: list[Piece] = field(default_factory=list)
    facts: list[Piece] = field(default_factory=list)
    num_tokens: int = 0


def points_of(story: Story, encoder: Encoder) -> list[Point]:
    """Returns the question points of a story."""
    points, first = [], 0
    for num_facts, asked in itertools.groupby(story.questions, lambda q: q.num_facts):
        facts = [encoder.fact(fact) for fact in story.facts[first:num_facts]]
        points.append((facts, [encoder.question(question) for question in asked]))
        first = num_facts
    return points


def mix(points: list[Point], num_segments: int, segment_length: int,
        background: TokenizedBackground, rng: np.random.Generator, bos: Piece | None = None,
        max_points: int = 2) -> Sample | None:
    """Distributes question points over segments, each point's questions after its facts' segment.

    A SHIFTED_SHARE of the samples of three segments or more are laid out over one segment less and
    begin with part of a segment of background text, because segment borders can fall anywhere in
    a text, also into facts.

    Args:
      points: the sample takes the first n of them; n is the larger of two uniform draws, since the
        answers of samples with few facts are soon guessed.
      num_segments: at least 2.
      bos: the beginning of the sample, if any.
      max_points: most points whose facts are in one segment.

    Returns:
      A sample of num_segments * segment_length tokens, or None if the facts of a point do not fit
      a segment.
    """
    T, num_bos = segment_length, _num_tokens([bos] if bos else [])
    shift = int(rng.integers(1, T)) if num_segments > 2 and rng.random() < SHIFTED_SHARE else 0
    segments = _distribute(points, num_segments - bool(shift), T, T - num_bos, rng,
                           max_points)
    if segments is None:
        return None

    rooms = [T - segment.num_tokens for segment in segments]  # for background text
    rooms[0] -= num_bos
    start = int(rng.integers(background.num_sentences))
    text = background.passage(start, sum(rooms) + (T if shift else 0))
    borders = text.borders(np.arange(text.sentences_before(len(text)) + 1))
    cuts, begin = [], shift
    for segment, room in zip(segments, rooms, strict=True):
        end = begin + room
        inside = borders[slice(*np.searchsorted(borders, [begin + 1, end]))]
        places = np.concatenate([[begin], inside, [end]])
        num_pieces = len(segment.questions) + len(segment.facts)
        drawn = np.sort(places[rng.integers(len(places), size=num_pieces)])
        if rng.random() < QUESTIONS_FIRST_SHARE:
            drawn[:len(segment.questions)] = begin
        cuts += drawn.tolist()
        begin = end
    pieces = [piece for s in segments for piece in (*s.questions, *s.facts)]
    if bos:
        pieces, cuts = [bos, *pieces], [0, *cuts]
    return Mixture(pieces, np.array(cuts), text).sample()


def _distribute(points: list[Point], num_segments: int, segment_length: int, room: int,
                rng: np.random.Generator, max_points: int) -> list[_Segment] | None:
    """Assigns facts and questions to segments; None if the facts of a point exceed `room` tokens.

    The facts of the points go to segments drawn in order, at most `max_points` to each and
    all before a last one that is drawn too. The questions of the last point are asked. Those of
    another point are asked with a probability drawn for the sample, because a question with its
    answer repeats the fact, and the memory must also last without. They go to a segment drawn
    between that of their facts (exclusive) and that of the next point's facts (inclusive), as many
    as fit; none if these are the same segment.
    """
    most = room // max(_num_tokens(facts) for facts, _ in points)
    if not most:
        return None
    slots = np.repeat(np.arange(rng.integers(1, num_segments)), min(most, max_points))
    count = 1 + int(rng.integers(min(len(points), len(slots)), size=2).max())
    segment_of = [*np.sort(rng.choice(slots, count, replace=False)).tolist(), num_segments - 1]
    segments = [_Segment() for _ in range(num_segments)]
    for (facts, _), number in zip(points[:count], segment_of, strict=False):
        segments[number].facts += facts
        segments[number].num_tokens += _num_tokens(facts)
    ask_probability = rng.random()
    for point, (own, following) in enumerate(itertools.pairwise(segment_of)):
        if own == following or (point < count - 1 and rng.random() > ask_probability):
            continue
        segment = segments[int(rng.integers(own + 1, following + 1))]
        for question in points[point][1]:
            if segment.num_tokens + len(question.tokens) <= segment_length:
                segment.questions.append(question)
                segment.num_tokens += len(question.tokens)
    return segments


def _num_tokens(pieces: list[Piece]) -> int:
    return sum(len(piece.tokens) for piece in pieces)
