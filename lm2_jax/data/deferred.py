"""Training samples whose questions all need the memory.

Where a story asks right after it tells, attention often still sees the fact. Here each of its
questions is asked at the beginning of a later segment than the facts before it: none can be
answered from the segment it stands in.
"""

import itertools

import numpy as np

from lm2_jax.data.babi import Story
from lm2_jax.data.babilong import Encoder, Piece, Sample, assemble
from lm2_jax.data.background import TokenizedBackground

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
        background: TokenizedBackground, rng: np.random.Generator) -> Sample | None:
    """Points spread over segments, each point's questions in a later segment than its facts.

    The points' segments are drawn at random in order; the questions of a point open a segment
    drawn from the one after it up to that of the next point's facts, as many as fit beside
    what else is told there. None if a point's facts do not fit a segment.

    Args:
      points: the first so many are taken, a number drawn from 1 to all of them, and at most
        num_segments - 1.
      num_segments: at least 2.
    """
    S, T = num_segments, segment_length
    count = 1 + int(rng.integers(min(len(points), S - 1)))
    told_in = [*np.sort(rng.choice(S - 1, count, replace=False)).tolist(), S - 1]
    facts: list[list[Piece]] = [[] for _ in range(S)]
    questions: list[list[Piece]] = [[] for _ in range(S)]
    for (told, _), segment in zip(points, told_in, strict=False):
        facts[segment] = told
    used = [sum(len(piece.tokens) for piece in told) for told in facts]
    if max(used) > T:
        return None
    for number in range(count):
        segment = int(rng.integers(told_in[number] + 1, told_in[number + 1] + 1))
        for question in points[number][1]:
            if used[segment] + len(question.tokens) <= T:
                questions[segment].append(question)
                used[segment] += len(question.tokens)

    start = int(rng.integers(background.num_sentences))
    noise, borders = background.take(start, S * T - sum(used))
    cuts, begin = [], 0
    for segment in range(S):
        end = begin + T - used[segment]
        inside = borders[(borders > begin) & (borders < end)]
        places = np.concatenate([[begin], inside, [end]])
        cuts += [begin] * len(questions[segment])
        cuts += np.sort(rng.choice(places, len(facts[segment]))).tolist()
        begin = end
    pieces = [p for segment in range(S) for p in (*questions[segment], *facts[segment])]
    return assemble(pieces, np.array(cuts), noise)
