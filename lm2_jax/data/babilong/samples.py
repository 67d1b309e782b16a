"""Evaluation samples: drawn from stories, or read from a file."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.config import EvalConfig, parse_length
from lm2_jax.data.babi.files import Story
from lm2_jax.data.babi.stories import StorySource
from lm2_jax.data.babilong import mixing, published
from lm2_jax.data.babilong.mixing import Encoder, Joined, Mixture
from lm2_jax.data.babilong.prompting import Asking
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.background import TokenizedBackground
from lm2_jax.data.text.json_stream import Take
from lm2_jax.data.text.pieces import Spool, Text
from lm2_jax.errors import UserError, UserFileNotFoundError

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
      tokens: int32, made or read by slices: what `data.asking` puts before the context, the
        context and what it puts behind.
      question, target: as texts; target as the tokenizer writes it.
      whole: tokens of the sample that this is a part of; 0 = all of it is here.
    """

    task: str
    length: str
    tokens: Joined
    question: str
    target: str
    whole: int = 0


Cells = dict[tuple[str, str], list[Prompt]]  # by task and length


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
    for _ in range(ATTEMPTS):
        story, last = source.asked[index] if source.asked else _any_question(source, rng)
        asked = story.questions[last]
        facts = mixing.pieces_of(story, encoder, last, dense=False)[:-1]
        told = sum(len(fact.tokens) for fact in facts)
        behind = asking.behind(source.task, asked.text)
        size = asking.context_tokens(tokens, behind, asked.answer) if tokens else told
        if source.asked and not distance:
            size = max(size, told)
        facts_end = size
        if distance and tokens:
            facts_end = ((len(before) + size) // segment_length - distance) * segment_length
            facts_end -= len(before)
        if told > facts_end:
            continue
        context = mixing.mix(facts, size, background, rng, last_at_end=False, facts_end=facts_end)
        if not config.retrieve:  # else of the sentences that are retrieved
            context = context.opened(asking.opening, size if tokens else 0)
        if context and (not tokens or context.pieces_end <= facts_end) \
                and _is_a_text(context, encoder):
            return Prompt(source.task, length, Joined((before, context, behind)), asked.text,
                          _as_written(asked.answer, encoder, source.task))
    what = f"{source.task} in {ATTEMPTS}" if not source.asked else \
        f"{source.task} that eval.indices names for sample {index}"
    raise UserError(f"no story of {what} fits a sample of {length} "
                     f"(segments of {segment_length} tokens, eval.min_distance "
                     f"{config.min_distance}); take longer eval.lengths")


def _is_a_text(context: Mixture, encoder: Encoder) -> bool:
    """Whether the prose, cut to fit, ends where a text can: its tokens are those of a text, so
    that the sample is the same prompt when it is read from a file."""
    if not len(context.noise):
        return True
    cut, whole = context.last_prose()
    # Of a sentence with an unknown word the text does not tell.
    return encoder.survives(cut) or not encoder.survives(whole)


def _any_question(source: StorySource, rng: np.random.Generator) -> tuple[Story, int]:
    story = source.draw(rng)
    return story, int(rng.integers(len(story.questions)))


def read_file(path: str | Path, asking: Asking) -> list[Prompt]:
    """All samples of a file: JSON lines (.gz or not), a list, or parquet.

    Each has task, length, input, question, target; task and length may be left out where the
    path tells them, as that of a published file does.
    """
    path, spool = Path(path), Spool()
    if not path.is_file():
        raise UserFileNotFoundError(f"no sample file or folder {path} (eval.samples)")
    named = dict(zip(KEYS, published.cell_of(path) or (), strict=False))
    prompts = [prompt_of(named | sample if isinstance(sample, Mapping) else sample, where, asking,
                         spool)
               for where, sample in published.rows(path, _context(asking, spool))]
    if not prompts:
        raise UserError(f"{path} has no samples")
    return prompts


def read_cell(folder: str | Path, task: str, length: str, num_samples: int, asking: Asking,
              spool: Spool) -> list[Prompt]:
    """The first so many samples of a task and length of BABILong as published, or all it has."""
    rows = published.read(folder, task, length, _context(asking, spool))
    return [prompt_of({**sample, "task": task, "length": length}, where, asking, spool)
            for where, sample in itertools.islice(rows, num_samples)]


def _context(asking: Asking, spool: Spool) -> Take:
    return lambda pieces: Text(asking.context(pieces), spool)


def prompt_of(sample: Mapping[str, str | Text], where: str, asking: Asking,
              spool: Spool | None = None) -> Prompt:
    """A sample's texts as a prompt; messages name the sample as `where`.

    Args:
      sample: has KEYS; the context (input) may have been tokenized before.
      spool: where a context is written that was not.
    """
    missing = [key for key in KEYS if not isinstance(sample, Mapping)
               or not _has_text(sample.get(key))]
    if missing:
        told = " (the path may tell task and length, as in qa1_4k.jsonl or 4k/qa1.jsonl)"
        raise UserError(f"{where} has no text under {', '.join(missing)}; a sample has "
                         + ", ".join(KEYS) + told * ("task" in missing or "length" in missing))
    for key in ("task", "length"):
        if not _NAMES[key].fullmatch(sample[key]):
            raise UserError(f"{where}: {key} is {sample[key]!r}; it must be up to 64 letters, "
                            "digits, dots, signs and, in a task, underscores, since files are "
                            "named after it")
    context, question = sample["input"], sample["question"].strip()
    if isinstance(context, str):
        context = Text(asking.context(texts.pieces(context)), spool)
    tokens = Joined((asking.before(sample["task"]), context,
                     asking.behind(sample["task"], question)))
    return Prompt(sample["task"], sample["length"], tokens, question,
                  _as_written(sample["target"], asking.encoder, where))


def _has_text(value: object) -> bool:
    return len(value) > 0 if isinstance(value, Text) else (
        isinstance(value, str) and bool(value.strip()))


def _as_written(answer: str, encoder: Encoder, where: str) -> str:
    """The answer as decoding writes it, so that an exact match is a match of tokens."""
    ids = encoder.text(answer)
    if encoder.unk_id in ids:
        raise UserError(f"{where}: the tokenizer does not know all words of the answer "
                         f"{answer!r}; take one trained on texts that have them")
    return encoder.tokenizer.decode(ids).strip()
