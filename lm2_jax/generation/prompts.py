"""Texts, questions and chats as tokens, in the form that the model was trained on."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from lm2_jax.checkpoint.workdir import CONVERTED, Run
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.mixing import Joined
from lm2_jax.data.babilong.prompting import FineTuned
from lm2_jax.data.text import pieces as texts
from lm2_jax.data.text.pieces import Text
from lm2_jax.errors import UserError
from lm2_jax.types import Tokens


def answers_questions(run: Run) -> bool:
    """Whether a model was trained on facts, questions and answers (`data.source=babilong`)."""
    converted = run.workdir is not None and (run.workdir / CONVERTED).is_file()
    return run.config.data.source == "babilong" and not converted


def beginning(run: Run, first: bool = True) -> np.ndarray:
    """The tokens that a text begins with in training: BOS, or nothing; int32.

    Args:
      first: whether nothing was read before; if something was, there are none.
    """
    return np.asarray(run.tokenizer.bos_ids if first else (), np.int32)


def of_text(run: Run, text: str) -> Tokens:
    """The tokens of a text to read, without BOS.

    White space at its ends is left out. Models that were trained on questions read sentence by
    sentence, as in training. The tokens of a long text are kept in a temporary file.
    """
    pieces: Iterable[str] = texts.pieces(text)
    parts: Iterator[list[int]] = (
        _tuned(run).context(pieces) if answers_questions(run)
        else map(run.tokenizer.encode, texts.stripped_parts(pieces)))
    return Text(parts) if len(text) > texts.PIECE else array([*itertools.chain(*parts)])


def of_question(run: Run, question: str) -> np.ndarray:
    """The tokens of a question and of the mark after which the model answers, int32.

    Raises:
      UserError: if the model was not trained on questions.
    """
    if not answers_questions(run):
        raise UserError("this model was not trained on questions with an answer mark "
                        "(data.source=babilong); ask it in the prompt")
    return _tuned(run).suffix("", question)


def of_prompt(run: Run, prompt: str, question: str = "", *, first: bool = True) -> Tokens:
    """The tokens of a prompt, and of a question about it.

    A prompt is continued as it is. If the model was trained on questions and the prompt ends with
    a question mark, it ends with a question: it is read as in training, up to the answer mark.

    Args:
      question: "" = none beside the prompt.
      first: whether nothing was read before, so that the tokens begin with BOS.
    """
    begin = beginning(run, first)
    if question:
        return joined(begin, of_text(run, prompt), of_question(run, question))
    if answers_questions(run) and ends_with_question(prompt):
        return joined(begin, of_text(run, prompt), array([run.tokenizer.answer_id]))
    return joined(begin, array(run.tokenizer.encode(prompt)))


def ends_with_question(text: str) -> bool:
    return text.rstrip().endswith("?")


def array(tokens: Any) -> Tokens:
    """Token ids of a list as an int32 array; what has slices that are arrays stays as it is."""
    return np.array(tokens, np.int32) if isinstance(tokens, list | tuple) else tokens


def joined(*parts: Tokens) -> Tokens:
    """The tokens of all parts, one after the other."""
    return Joined(cast(Any, parts))


def _tuned(run: Run) -> FineTuned:
    return FineTuned(Encoder(run.tokenizer))
