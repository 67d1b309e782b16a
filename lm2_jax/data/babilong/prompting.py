"""How a question is put to the model: what it reads before and behind the context.

Tuned: the context, the question and the answer mark, as in training; the whole sample, answer
and end mark included, has the length. Prompted: as language models are asked, with instruction,
examples, form of the answer, context and question in the benchmark's template; the answer begins
where the text ends. There the context alone has the length less the 300 tokens that the
benchmark keeps for the rest, whatever the rest takes.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lm2_jax.config import EvalConfig
from lm2_jax.config.evaluation import PROMPT_BUDGET
from lm2_jax.data.babilong import prompts
from lm2_jax.data.babilong.mixing import Encoder, sentence_ids
from lm2_jax.data.babilong.prompts import TaskPrompt
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.background import sentences_of
from lm2_jax.data.tokenizer import ANSWER, Tokenizer
from lm2_jax.errors import UserError

TUNED = TaskPrompt(template="{context} {question}" + ANSWER)
_ENCODE_BATCH = 1024  # sentences


@dataclass(frozen=True)
class Tuned:
    """Context, question, answer mark; `before` and `behind` are int32 ids."""

    encoder: Encoder

    def prompt(self, task: str) -> TaskPrompt:
        return TUNED

    def before(self, task: str) -> np.ndarray:
        return np.empty(0, np.int32)

    def behind(self, task: str, question: str) -> np.ndarray:
        e = self.encoder
        return np.asarray([*e.text(question), e.tokenizer.answer_id], np.int32)

    def context(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each sentence of a context that comes in pieces, as in training."""
        return _by_sentence(self.encoder.tokenizer, pieces)

    def opening(self, sentence: np.ndarray) -> np.ndarray:
        """The ids of a sentence at the start of the context: a blank before it, as before all."""
        return sentence

    def context_tokens(self, length: int, behind: np.ndarray, answer: str) -> int:
        """How many tokens of a sample of so many are context."""
        return length - len(behind) - len(self.encoder.text(answer)) - 1  # the end mark


@dataclass(frozen=True)
class Prompted:
    """The benchmark's template; `before` and `behind` are int32 ids.

    Attributes:
      prompts: of each task, without the parts that are not used.
      retrieves: the model is given sentences of the context.
      encoded: the ids before the context of the tasks asked so far.
    """

    encoder: Encoder
    prompts: Mapping[str, TaskPrompt]
    retrieves: bool = False
    encoded: dict[str, np.ndarray] = field(default_factory=dict)

    def prompt(self, task: str) -> TaskPrompt:
        if task not in self.prompts:
            raise UserError(f"no prompt for {task} (eval.prompts); there are "
                             + ", ".join(self.prompts))
        return self.prompts[task]

    def before(self, task: str) -> np.ndarray:
        if task not in self.encoded:
            self.encoded[task] = self._ids(self.prompt(task).before())
        return self.encoded[task]

    def behind(self, task: str, question: str) -> np.ndarray:
        return self._ids(self.prompt(task).behind(question))

    def context(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of a context that comes in pieces, as it is but for the white space at its ends;
        part by part, or sentence by sentence where some of them are retrieved."""
        if self.retrieves:
            return _by_sentence(self.encoder.tokenizer, pieces)
        return map(self.encoder.tokenizer.encode, texts.as_it_is(pieces))

    def opening(self, sentence: np.ndarray) -> np.ndarray:
        """The ids of a sentence at the start of the context: no blank stands before it."""
        return self.encoder.without_blank(sentence)

    def context_tokens(self, length: int, behind: np.ndarray, answer: str) -> int:
        """How many tokens of a sample of so many are context."""
        return length - PROMPT_BUDGET

    def _ids(self, text: str) -> np.ndarray:
        return np.asarray(self.encoder.tokenizer.encode(text), np.int32)


Asking = Tuned | Prompted


def make(config: EvalConfig, encoder: Encoder) -> Asking:
    """The configured way of asking.

    Raises:
      FileNotFoundError, ValueError: `config.prompts` cannot be read.
    """
    if config.asking == "tuned":
        return Tuned(encoder)
    known = prompts.load(config.prompts) if config.prompts else prompts.ours()
    return Prompted(encoder, {task: prompt.with_parts(
        instruction=config.use_instruction, examples=config.use_examples,
        post_prompt=config.use_post_prompt) for task, prompt in known.items()},
        retrieves=bool(config.retrieve))


def _by_sentence(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[list[int]]:
    sentences = sentences_of(pieces)
    while batch := list(itertools.islice(sentences, _ENCODE_BATCH)):
        yield from sentence_ids(tokenizer, batch)
