"""Prompt styles: the tokens before and after the context of a sample.

FineTuned is for models that were trained on the tasks: the context, the question and the answer
mark, as in training. The length of a sample counts everything, the answer and the end mark too.

Instruct is for other language models: instruction, examples, form of the answer, context and
question in the benchmark's template; the answer begins where the text ends. The context has the
length less the 300 tokens that the benchmark reserves for the rest, however long that is.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lm2_jax.config import EvalConfig
from lm2_jax.config.evaluation import PROMPT_BUDGET
from lm2_jax.data.babilong import prompts
from lm2_jax.data.babilong.encoder import Encoder, sentence_ids
from lm2_jax.data.babilong.prompts import TaskPrompt
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.background import sentences_of
from lm2_jax.data.tokenizer import ANSWER, Tokenizer
from lm2_jax.errors import UserError

TUNED = TaskPrompt(template="{context} {question}" + ANSWER)
_ENCODE_BATCH = 1024  # sentences


@dataclass(frozen=True)
class FineTuned:
    """Context, question, answer mark; `prefix` and `suffix` are int32 ids."""

    encoder: Encoder

    def prompt(self, task: str) -> TaskPrompt:
        return TUNED

    def prefix(self, task: str) -> np.ndarray:
        return self.encoder.bos.tokens

    def suffix(self, task: str, question: str) -> np.ndarray:
        e = self.encoder
        return np.asarray([*e.text(question), e.tokenizer.answer_id], np.int32)

    def context(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each sentence of a context that comes in pieces, as in training."""
        return _by_sentence(self.encoder.tokenizer, pieces)

    def opening(self, sentence: np.ndarray) -> np.ndarray:
        """The ids of the context's first sentence: it keeps its blank, like any other sentence."""
        return sentence

    def context_tokens(self, length: int, suffix: np.ndarray, answer: str) -> int:
        """The number of context tokens in a sample of `length` tokens."""
        e = self.encoder
        return length - len(e.bos.tokens) - len(suffix) - len(e.text(answer)) - 1  # the end mark


@dataclass(frozen=True)
class Instruct:
    """The benchmark's template; `prefix` and `suffix` are int32 ids.

    Attributes:
      prompts: of each task, without the parts that are not used.
      retrieves: whether the model is given retrieved sentences in place of the context.
      encoded: a cache of `prefix`, by task.
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

    def prefix(self, task: str) -> np.ndarray:
        if task not in self.encoded:
            self.encoded[task] = np.append(self.encoder.bos.tokens,
                                           self._ids(self.prompt(task).prefix()))
        return self.encoded[task]

    def suffix(self, task: str, question: str) -> np.ndarray:
        return self._ids(self.prompt(task).suffix(question))

    def context(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """The ids of a context that comes in pieces, unchanged except for white space at its ends.

        They come part by part, or sentence by sentence if sentences are retrieved.
        """
        if self.retrieves:
            return _by_sentence(self.encoder.tokenizer, pieces)
        return map(self.encoder.tokenizer.encode, texts.stripped_parts(pieces))

    def opening(self, sentence: np.ndarray) -> np.ndarray:
        """The ids of the context's first sentence, without the blank before it."""
        return self.encoder.without_blank(sentence)

    def context_tokens(self, length: int, suffix: np.ndarray, answer: str) -> int:
        """The number of context tokens in a sample of `length` tokens."""
        return length - PROMPT_BUDGET

    def _ids(self, text: str) -> np.ndarray:
        return np.asarray(self.encoder.tokenizer.encode(text), np.int32)


Prompting = FineTuned | Instruct


def make(config: EvalConfig, encoder: Encoder) -> Prompting:
    """Returns the configured prompt style.

    Raises:
      FileNotFoundError, ValueError: `config.prompts` cannot be read.
    """
    if config.prompt_style == "fine_tuned":
        return FineTuned(encoder)
    known = prompts.load(config.prompts) if config.prompts else prompts.default_prompts()
    return Instruct(encoder, {task: prompt.with_parts(
        instruction=config.use_instruction, examples=config.use_examples,
        post_prompt=config.use_post_prompt) for task, prompt in known.items()},
        retrieves=bool(config.retrieve))


def _by_sentence(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[list[int]]:
    sentences = sentences_of(pieces)
    while batch := list(itertools.islice(sentences, _ENCODE_BATCH)):
        yield from sentence_ids(tokenizer, batch)
