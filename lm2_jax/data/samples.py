"""Evaluation samples: drawn from stories, or read from a file."""

import dataclasses
import gzip
import itertools
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.config import EvalConfig, parse_length
from lm2_jax.data import babilong
from lm2_jax.data.babilong import Encoder, Mixture, Piece, sentence_ids
from lm2_jax.data.background import TokenizedBackground, split_sentences
from lm2_jax.data.stories import StorySource

ATTEMPTS = 1000


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers.

    Attributes:
      task, length: "qa1", "4k".
      tokens: int32, context, question and answer mark; an array, or what gives them by slices.
      question, target: as texts; target as the tokenizer writes it.
    """

    task: str
    length: str
    tokens: np.ndarray | Mixture
    question: str
    target: str


def draw(source: StorySource, length: str, index: int, config: EvalConfig, encoder: Encoder,
         background: TokenizedBackground, segment_length: int) -> Prompt:
    """Sample `index` of a task and length, a pure function of the arguments.

    The whole, answer and end mark included, has the length exactly ("0k": facts and question
    alone). With `config.min_distance` d > 0 the facts end d whole segments or more before the
    segment in which the question begins.
    """
    tokens, distance = parse_length(length), config.min_distance
    rng = np.random.default_rng([config.seed, int(source.task[2:]), tokens, index])
    for _ in range(ATTEMPTS):
        story = source.draw(rng)
        last = int(rng.integers(len(story.questions)))
        *facts, question = babilong.pieces_of(story, encoder, last, dense=False)
        asked_at = facts_end = tokens - len(question.tokens)
        if distance:
            facts_end = (asked_at // segment_length - distance) * segment_length
        if tokens and sum(len(fact.tokens) for fact in facts) > facts_end:
            continue
        mixture = babilong.mix([*facts, question], tokens, background, rng, last_at_end=True,
                               facts_end=facts_end if tokens else None)
        asked = story.questions[last]
        ask = Piece(question.tokens[:question.answer], question.answer)
        return Prompt(source.task, length, dataclasses.replace(mixture, pieces=[*facts, ask]),
                      asked.text, _as_written(asked.answer, encoder, source.task))
    raise ValueError(f"no story of {source.task} in {ATTEMPTS} fits a sample of {length} "
                     f"(segments of {segment_length} tokens, eval.min_distance "
                     f"{config.min_distance}); take longer eval.lengths")


def read_file(path: str | Path, encoder: Encoder) -> list[Prompt]:
    """The samples of a JSON-lines file (.gz or not) with task, length, input, question, target.

    The context is tokenized sentence by sentence, as in training.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no sample file {path} (eval.samples)")
    opened = gzip.open if path.suffix == ".gz" else open
    prompts = []
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    prompts.append(_prompt_of(line, f"{path}:{number}", encoder))
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as UTF-8 text (.gz: as a whole gzip file): "
                         f"{error}") from None
    if not prompts:
        raise ValueError(f"{path} has no samples")
    return prompts


def _prompt_of(line: str, where: str, encoder: Encoder) -> Prompt:
    keys = ("task", "length", "input", "question", "target")
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    missing = [key for key in keys if not isinstance(sample, dict)
               or not isinstance(sample.get(key), str) or not sample[key].strip()]
    if missing:
        raise ValueError(f"{where} has no text under {', '.join(missing)}; a sample has "
                         + ", ".join(keys))
    sentences = sentence_ids(encoder.tokenizer, split_sentences(sample["input"]))
    context = itertools.chain.from_iterable(sentences)
    question = sample["question"].strip()
    tokens = [*context, *encoder.text(question), encoder.tokenizer.answer_id]
    return Prompt(sample["task"], sample["length"], np.asarray(tokens, np.int32), question,
                  _as_written(sample["target"], encoder, where))


def _as_written(answer: str, encoder: Encoder, where: str) -> str:
    """The answer as decoding writes it, so that an exact match is a match of tokens."""
    ids = encoder.text(answer)
    if encoder.unk_id in ids:
        raise ValueError(f"{where}: the tokenizer does not know all words of the answer "
                         f"{answer!r}; take one trained on texts that have them")
    return encoder.tokenizer.decode(ids).strip()
