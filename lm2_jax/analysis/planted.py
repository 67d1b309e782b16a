"""Texts in which prose follows the facts of a story for as long as wanted, all with one question.

They are laid out alike, so that a batch of them is read together: all facts end in the same
segment, and only prose comes after.
"""

import collections
import dataclasses
from dataclasses import dataclass

import numpy as np

from lm2_jax.data.babi.story import Story
from lm2_jax.data.babilong.corpus import Corpus
from lm2_jax.data.babilong.prompting import Prompting

_DRAWS = 400  # stories from which the question is chosen
_ATTEMPTS = 100  # stories drawn for each text


@dataclass(frozen=True)
class Planted:
    """B texts of F segments with the facts and K segments of prose, of T tokens each.

    Attributes:
      question: asked of all of them.
      answers: its answer in each of them.
      tokens_BL: int32, L = (F + K) T.
      support_BL: bool, tokens of the facts that give the answer.
      prose_BL: bool, tokens of prose.
      fact_segments: F.
      question_Q: int32, the question and what stands before an answer.
      answer_B: int32, the first token of each answer.
    """

    question: str
    answers: list[str]
    tokens_BL: np.ndarray
    support_BL: np.ndarray
    prose_BL: np.ndarray
    fact_segments: int
    question_Q: np.ndarray
    answer_B: np.ndarray

    def rows(self, first: int, end: int) -> "Planted":
        """Texts `first` to `end` (exclusive)."""
        part = slice(first, end)
        return dataclasses.replace(
            self, answers=self.answers[part], tokens_BL=self.tokens_BL[part],
            support_BL=self.support_BL[part], prose_BL=self.prose_BL[part],
            answer_B=self.answer_B[part])


def plant(corpus: Corpus, prompting: Prompting, segment_length: int, num_texts: int,
          num_segments: int, seed: int) -> Planted:
    """Draws texts from the stories of the first task.

    The question is the one asked most often after facts that fit into a segment; if those of few
    stories do, after the shortest fifth of facts. No two texts have the same facts.

    Args:
      num_texts: fewer are drawn if there are not as many.
      num_segments: of prose after the segment in which the facts end.
    """
    rng, source, T = np.random.default_rng(seed), corpus.sources[0], segment_length
    encoder, prose = prompting.encoder, corpus.prose

    def facts_of(story: Story, number: int) -> list[np.ndarray]:
        return [encoder.fact(text).tokens
                for text in story.facts[:story.questions[number].num_facts]]

    def size(story: Story, number: int) -> int:
        return sum(map(len, facts_of(story, number)))

    stories = [source.draw(rng) for _ in range(_DRAWS)]
    asked = [(story.questions[i].text, size(story, i))
             for story in stories for i in range(len(story.questions))]
    room = max(T, int(np.quantile([tokens for _, tokens in asked], 0.2)))
    question = collections.Counter(text for text, tokens in asked if tokens <= room
                                   ).most_common(1)[0][0]
    chosen: dict[tuple[str, ...], tuple[Story, int]] = {}
    for _ in range(_ATTEMPTS * num_texts):
        if len(chosen) == num_texts:
            break
        story = stories.pop() if stories else source.draw(rng)
        for number in reversed(range(len(story.questions))):
            if story.questions[number].text == question and size(story, number) <= room:
                chosen.setdefault(story.facts[:story.questions[number].num_facts], (story, number))
                break
    prefix = prompting.prefix(source.task)
    longest = max(size(*pair) for pair in chosen.values())
    F = -(-(len(prefix) + longest) // T)
    rows = []
    for story, number in chosen.values():
        facts, support = facts_of(story, number), story.questions[number].support
        free = F * T - len(prefix) - size(story, number)
        text = prose.passage(int(rng.integers(prose.num_sentences)), free + num_segments * T)
        # The facts end in the last of the F segments, and begin after a sentence if one ends there.
        least = max(0, free - T + 1)
        borders = text.borders(np.arange(text.sentences_before(free + 1)))
        places = borders[(borders >= least) & (borders <= free)]
        cut = int(rng.choice(places)) if len(places) else int(rng.integers(least, free + 1))
        parts = [(prefix, 0), (text[:cut], 2),
                 *((fact, int(i in support)) for i, fact in enumerate(facts)), (text[cut:], 2)]
        rows.append((np.concatenate([part for part, _ in parts]),
                     np.repeat([kind for _, kind in parts], [len(part) for part, _ in parts])))
    tokens, kinds = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    answers = [story.questions[number].answer for story, number in chosen.values()]
    return Planted(question, answers, tokens.astype(np.int32), kinds == 1, kinds == 2, F,
                   prompting.suffix(source.task, question),
                   np.array([encoder.answer(answer)[0][0] for answer in answers], np.int32))
