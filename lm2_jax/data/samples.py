"""Evaluation samples: drawn from stories, or read from a file."""

import gzip
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.config import EvalConfig, parse_length
from lm2_jax.data import babilong, published
from lm2_jax.data.asking import Asking
from lm2_jax.data.babi import Story
from lm2_jax.data.babilong import Encoder, Joined, Text, sentence_ids
from lm2_jax.data.background import TokenizedBackground, split_sentences
from lm2_jax.data.stories import StorySource

ATTEMPTS = 1000
KEYS = ("task", "length", "input", "question", "target")


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers.

    Attributes:
      task, length: "qa1", "4k".
      tokens: int32, made by slices: what `data.asking` puts before the context, the context and
        what it puts behind.
      question, target: as texts; target as the tokenizer writes it.
      whole: tokens of the sample that this is a part of; 0 = all of it is here.
    """

    task: str
    length: str
    tokens: Joined
    question: str
    target: str
    whole: int = 0


def draw(source: StorySource, length: str, index: int, config: EvalConfig, asking: Asking,
         background: TokenizedBackground, segment_length: int) -> Prompt:
    """Sample `index` of a task and length, a pure function of the arguments.

    The length is met exactly ("0k": the context is facts alone); `data.asking` says by what.
    With `config.min_distance` d > 0 the facts end d whole segments or more before the segment
    in which the question begins. A source that says what is asked is taken at its word: facts
    too many for the length are then the whole context.
    """
    encoder, distance = asking.encoder, config.min_distance
    tokens = parse_length(length)
    rng = np.random.default_rng([config.seed, int(source.task[2:]), tokens, index])
    before = asking.before(source.task)
    for _ in range(1 if source.asked else ATTEMPTS):
        story, last = source.asked[index] if source.asked else _any_question(source, rng)
        asked = story.questions[last]
        facts = babilong.pieces_of(story, encoder, last, dense=False)[:-1]
        told = sum(len(fact.tokens) for fact in facts)
        behind = asking.behind(source.task, asked.text)
        size = asking.context_tokens(tokens, behind, asked.answer) if tokens else told
        if source.asked and not distance:
            size = max(size, told)
        facts_end = size
        if distance and tokens:
            facts_end = ((len(before) + size) // segment_length - distance) * segment_length
            facts_end -= len(before)
        if told <= facts_end:
            context = babilong.mix(facts, size, background, rng, last_at_end=False,
                                   facts_end=facts_end)
            return Prompt(source.task, length, Joined((before, context, behind)), asked.text,
                          _as_written(asked.answer, encoder, source.task))
    what = f"{source.task} in {ATTEMPTS}" if not source.asked else \
        f"{source.task} that eval.indices names for sample {index}"
    raise ValueError(f"no story of {what} fits a sample of {length} "
                     f"(segments of {segment_length} tokens, eval.min_distance "
                     f"{config.min_distance}); take longer eval.lengths")


def _any_question(source: StorySource, rng: np.random.Generator) -> tuple[Story, int]:
    story = source.draw(rng)
    return story, int(rng.integers(len(story.questions)))


def read_file(path: str | Path, asking: Asking) -> list[Prompt]:
    """The samples of a JSON-lines file (.gz or not) with task, length, input, question, target.

    The context is tokenized sentence by sentence, as in training.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no sample file or folder {path} (eval.samples)")
    opened = gzip.open if path.suffix == ".gz" else open
    prompts = []
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    prompts.append(_prompt_of_line(line, f"{path}:{number}", asking))
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as UTF-8 text (.gz: as a whole gzip file): "
                         f"{error}") from None
    if not prompts:
        raise ValueError(f"{path} has no samples")
    return prompts


def read_cell(folder: str | Path, task: str, length: str, num_samples: int, asking: Asking
              ) -> list[Prompt]:
    """The first so many samples of a task and length of BABILong as published, or all it has."""
    texts = published.read(folder, task, length)
    return [prompt_of({"task": task, "length": length, **sample}, where, asking)
            for where, sample in itertools.islice(texts, num_samples)]


def prompt_of(sample: Mapping[str, str], where: str, asking: Asking) -> Prompt:
    """A sample's texts as a prompt; messages name the sample as `where`."""
    missing = [key for key in KEYS if not isinstance(sample, Mapping)
               or not isinstance(sample.get(key), str) or not sample[key].strip()]
    if missing:
        raise ValueError(f"{where} has no text under {', '.join(missing)}; a sample has "
                         + ", ".join(KEYS))
    sentences = sentence_ids(asking.encoder.tokenizer, split_sentences(sample["input"]))
    question = sample["question"].strip()
    context = Text([np.asarray(sentence, np.int32) for sentence in sentences])
    tokens = Joined((asking.before(sample["task"]), context,
                     asking.behind(sample["task"], question)))
    return Prompt(sample["task"], sample["length"], tokens, question,
                  _as_written(sample["target"], asking.encoder, where))


def _prompt_of_line(line: str, where: str, asking: Asking) -> Prompt:
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    return prompt_of(sample, where, asking)


def _as_written(answer: str, encoder: Encoder, where: str) -> str:
    """The answer as decoding writes it, so that an exact match is a match of tokens."""
    ids = encoder.text(answer)
    if encoder.unk_id in ids:
        raise ValueError(f"{where}: the tokenizer does not know all words of the answer "
                         f"{answer!r}; take one trained on texts that have them")
    return encoder.tokenizer.decode(ids).strip()
