"""Evaluation samples: drawn from stories, or read from a file."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm2_jax.config import EvalConfig, parse_length
from lm2_jax.data.babi.story import Story
from lm2_jax.data.babi.story_sources import StorySource
from lm2_jax.data.babilong import mixing, published
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.mixing import Joined, Mixture
from lm2_jax.data.babilong.prompting import Prompting
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.background import TokenizedBackground
from lm2_jax.data.text.pieces import Spool, Text
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

ATTEMPTS = 1000
KEYS = ("task", "length", "input", "question", "target")
# Predictions are written to TASK_LENGTH_..., which no two cells may share.
_NAMES = {"task": re.compile(r"[A-Za-z0-9][\w.+-]{,63}", re.ASCII),
          "length": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{,63}")}


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers.

    Attributes:
      task, length: "qa1", "4k".
      tokens: int32, made or read slice by slice: prefix, context and suffix.
      question: its text.
      target: the text of the answer, as the tokenizer decodes it.
      whole: tokens of the sample before sentences of it were retrieved; 0 = `tokens` is whole.
    """

    task: str
    length: str
    tokens: Joined
    question: str
    target: str
    whole: int = 0


Cells = dict[tuple[str, str], list[Prompt]]  # by task and length


def _number(task: str) -> int:
    """5 of "qa5"; 0 of a task that is not bAbI's."""
    return int(task[2:]) if task.startswith("qa") else 0


def draw(source: StorySource, length: str, index: int, config: EvalConfig, prompting: Prompting,
         background: TokenizedBackground, segment_length: int) -> Prompt:
    """Draws sample `index` of a task and length; a pure function of the arguments.

    What `prompting` counts has exactly the length; "0k" stands for a context of facts alone. With
    `config.min_distance` d > 0 at least d whole segments lie between the last fact and the
    segment in which the question begins. If the source names the question (`eval.indices`), its
    facts are the whole context where they are longer than the length.

    Raises:
      UserError: no story fits the length, or the tokenizer lacks words of the answer.
    """
    encoder, distance = prompting.encoder, config.min_distance
    tokens = parse_length(length)
    rng = np.random.default_rng([config.seed, _number(source.task), tokens, index])
    prefix = prompting.prefix(source.task)
    for _ in range(ATTEMPTS):
        story, last = source.selected[index] if source.selected else _any_question(source, rng)
        question = story.questions[last]
        facts = mixing.pieces_of(story, encoder, last, dense=False)[:-1]
        fact_tokens = sum(len(fact.tokens) for fact in facts)
        suffix = prompting.suffix(source.task, question.text)
        size = prompting.context_tokens(tokens, suffix, question.answer) if tokens else fact_tokens
        if source.selected and not distance:
            size = max(size, fact_tokens)
        facts_end = size
        if distance and tokens:
            facts_end = ((len(prefix) + size) // segment_length - distance) * segment_length
            facts_end -= len(prefix)
        if fact_tokens > facts_end:
            continue
        mixed = mixing.mix(facts, size, background, rng, last_at_end=False, facts_end=facts_end)
        # With retrieval, the first of the retrieved sentences is opened instead.
        context = mixed if config.retrieve else mixed.opened(prompting.opening,
                                                             size if tokens else 0)
        if context and (not tokens or context.pieces_end <= facts_end) \
                and _is_a_text(context, encoder):
            return Prompt(source.task, length, Joined((prefix, context, suffix)), question.text,
                          _as_written(question.answer, encoder, source.task))
    what = f"{source.task} in {ATTEMPTS}" if not source.selected else \
        f"{source.task} that eval.indices names for sample {index}"
    raise UserError(f"no story of {what} fits a sample of {length} "
                     f"(segments of {segment_length} tokens, eval.min_distance "
                     f"{config.min_distance}); take longer eval.lengths")


def _is_a_text(context: Mixture, encoder: Encoder) -> bool:
    """Whether the prose was cut where its tokens are still those of a text.

    If so, the sample written to a file and read again is the same prompt.
    """
    if not len(context.noise):
        return True
    cut, whole = context.last_prose()
    # A sentence with an unknown word never survives, wherever it is cut.
    return encoder.survives(cut) or not encoder.survives(whole)


def _any_question(source: StorySource, rng: np.random.Generator) -> tuple[Story, int]:
    story = source.draw(rng)
    return story, int(rng.integers(len(story.questions)))


def read_file(path: str | Path, prompting: Prompting) -> list[Prompt]:
    """Reads all samples of a file: JSON lines (.gz or not), a list, or parquet.

    Each has task, length, input, question and target. Task and length may be missing if the path
    tells them, as the paths of the published files do.

    Raises:
      UserFileNotFoundError, UserError: in one line, with the file and the sample.
    """
    path, spool = paths.of(path), Spool()
    if not path.is_file():
        raise UserFileNotFoundError(f"no sample file or folder {path} (eval.samples)")
    named = dict(zip(KEYS, published.cell_of(path) or (), strict=False))
    prompts = [prompt_of({**named, **sample} if isinstance(sample, Mapping) else sample, where,
                         prompting, spool)
               for where, sample in published.rows(path)]
    if not prompts:
        raise UserError(f"{path} has no samples")
    return prompts


def read_cell(folder: str | Path, task: str, length: str, num_samples: int, prompting: Prompting,
              spool: Spool) -> list[Prompt]:
    """Reads the first `num_samples` samples of a task and length of the published data set."""
    rows = published.read(folder, task, length)
    return [prompt_of({**sample, "task": task, "length": length}, where, prompting, spool)
            for where, sample in itertools.islice(rows, num_samples)]


def prompt_of(sample: object, where: str, prompting: Prompting,
              spool: Spool | None = None) -> Prompt:
    """Returns the prompt of a sample.

    Args:
      sample: a mapping that has KEYS.
      where: names the sample in messages.
      spool: the file that receives the tokens of the context; None = a file of their own.
    """
    values: Mapping[str, Any] = sample if isinstance(sample, Mapping) else {}
    missing = [key for key in KEYS if not _has_text(values.get(key))]
    if missing:
        told = " (the path may tell task and length, as in qa1_4k.jsonl or 4k/qa1.jsonl)"
        raise UserError(f"{where} has no text under {', '.join(missing)}; a sample has "
                         + ", ".join(KEYS) + told * ("task" in missing or "length" in missing))
    for key in ("task", "length"):
        if not _NAMES[key].fullmatch(values[key]):
            raise UserError(f"{where}: {key} is {values[key]!r}; it must be up to 64 letters, "
                            "digits, dots, signs and, in a task, underscores, since files are "
                            "named after it")
    question = values["question"].strip()
    context = Text(prompting.context(texts.pieces(values["input"])), spool)
    tokens = Joined((prompting.prefix(values["task"]), context,
                     prompting.suffix(values["task"], question)))
    return Prompt(values["task"], values["length"], tokens, question,
                  _as_written(values["target"], prompting.encoder, where))


def _has_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()


def _as_written(answer: str, encoder: Encoder, where: str) -> str:
    """The answer after encoding and decoding, so that equal tokens are an exact match.

    An answer that does not survive this is refused; the message names it as `where`.
    """
    try:
        return encoder.answer(answer)[1]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
