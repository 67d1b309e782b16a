"""Training samples whose questions all need the memory.

Where a story asks right after it tells, attention often still sees the fact. Here each of its
questions is asked in a later segment than the facts before it; where a sample is shifted against
the segment borders, both may still fall into one.
"""

import itertools

import numpy as np

from lm2_jax.data.babi.files import Story
from lm2_jax.data.babilong.mixing import Encoder, Mixture, Piece, Sample
from lm2_jax.data.text.background import TokenizedBackground

MOST_POINTS = 2
SHIFTED = 0.5  # share of samples whose facts and questions may lie across a segment's border
OPENING = 0.5  # share of segments that open with their questions: those are learnt first
Point = tuple[list[Piece], list[Piece]]


def points_of(story: Story, encoder: Encoder) -> list[Point]:
    """The story's points: (facts told, questions then asked)."""
    points, told = [], 0
    for num_facts, asked in itertools.groupby(story.questions, lambda q: q.num_facts):
        facts = [encoder.fact(fact) for fact in story.facts[told:num_facts]]
        points.append((facts, [encoder.question(question) for question in asked]))
        told = num_facts
    return points


def mix(points: list[Point], num_segments: int, segment_length: int,
        background: TokenizedBackground, rng: np.random.Generator,
        bos: Piece = Piece(np.empty(0, np.int32), 0)) -> Sample | None:  # noqa: B008
    """Points spread over segments, each point's questions in a later segment than its facts.

    The points' segments are drawn at random in order, before a segment that is drawn too. The
    last point is asked for, the others with a probability drawn for the sample: a question with
    its answer tells the fact again, and memory must also last without. The questions of a point
    are asked in a segment drawn from the one after it up to that of the next point's facts (not
    at all if those come in its own), before those facts, as many as fit. None if a point's facts
    do not fit a segment.

    A share of the samples of three segments or more is laid out over one segment less, behind a
    part of a segment of prose, since in a text the borders fall anywhere, into facts too.

    Args:
      points: the first so many are taken, a number from 1 to all of them, at most MOST_POINTS a
        segment: the larger of two even draws, since what few facts say is soon guessed.
      num_segments: at least 2.
      bos: what the sample begins with.
    """
    T = segment_length
    shift = int(rng.integers(1, T)) if num_segments > 2 and rng.random() < SHIFTED else 0
    S = num_segments - bool(shift)
    most = max(sum(len(piece.tokens) for piece in told) for told, _ in points)
    seats = (T - len(bos.tokens)) // most
    if not seats:
        return None
    seats = np.repeat(np.arange(rng.integers(1, S)), min(seats, MOST_POINTS))
    count = 1 + int(rng.integers(min(len(points), len(seats)), size=2).max())
    told_in = [*np.sort(rng.choice(seats, count, replace=False)).tolist(), S - 1]
    facts: list[list[Piece]] = [[] for _ in range(S)]
    questions: list[list[Piece]] = [[] for _ in range(S)]
    for (told, _), segment in zip(points[:count], told_in[:count], strict=True):
        facts[segment] += told
    used = [sum(len(piece.tokens) for piece in told) for told in facts]
    used[0] += len(bos.tokens)
    asking = rng.random()
    for number in range(count):
        told, replaced = told_in[number:number + 2]
        if told == replaced or (number < count - 1 and rng.random() > asking):
            continue
        segment = int(rng.integers(told + 1, replaced + 1))
        for question in points[number][1]:
            if used[segment] + len(question.tokens) <= T:
                questions[segment].append(question)
                used[segment] += len(question.tokens)

    start = int(rng.integers(background.num_sentences))
    noise = background.passage(start, num_segments * T - sum(used))
    borders = noise.borders(np.arange(noise.sentences_before(len(noise)) + 1))
    cuts, begin = [], shift
    for segment in range(S):
        end = begin + T - used[segment]
        inside = borders[slice(*np.searchsorted(borders, [begin + 1, end]))]
        places = np.concatenate([[begin], inside, [end]])
        count = len(questions[segment]) + len(facts[segment])
        drawn = np.sort(places[rng.integers(len(places), size=count)])
        if rng.random() < OPENING:
            drawn[:len(questions[segment])] = begin
        cuts += drawn.tolist()
        begin = end
    pieces = [p for segment in range(S) for p in (*questions[segment], *facts[segment])]
    return Mixture(pieces, np.array(cuts), noise).after(bos).sample()
