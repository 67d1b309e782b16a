"""`lm2.read` and `lm2.generate`: what a trained model is used for."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.errors import UserError
from lm2_jax.generation import prompts as encoding
from lm2_jax.generation import states
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.reading import Reading
from lm2_jax.generation.sampling import Sampling
from lm2_jax.generation.states import ReadState, Source
from lm2_jax.generation.text import Writer
from lm2_jax.types import Tokens

Progress = Callable[[int], None]
Prompt = str | Sequence[int] | Tokens


def _nothing(tokens: int) -> None:
    pass


@dataclass(frozen=True)
class Generation:
    """A text that a model has generated.

    Attributes:
      text: of the tokens, without special tokens, up to the stop string if one came.
      tokens: as generated, with the stop token or the end of the stop string.
      reason: why it ends: "stop" = a stop token or stop string came, "length" = it has
        `max_new_tokens` tokens.
    """

    text: str
    tokens: tuple[int, ...]
    reason: Literal["stop", "length"]
    _make_state: Callable[[], ReadState] = field(repr=False, compare=False)

    @cached_property
    def state(self) -> ReadState:
        """What has been read now: the text before the prompt, the prompt and these tokens."""
        return self._make_state()


def generate(run: Run, prompts: Prompt | Sequence[Prompt], *, question: str | Sequence[str] = "",
             max_new_tokens: int = 256, temperature: float = 0.0, top_k: int = 0,
             top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0,
             stop: str | Sequence[str] = (), stop_ids: Iterable[int] | None = None,
             seed: int | Sequence[int] = 0,
             state: ReadState | Sequence[ReadState | None] | None = None,
             on_text: Callable[[int, str], None] | None = None,
             progress: Progress = _nothing, batch_size: int = 0) -> list[Generation]:
    """Generates a text after each prompt, all of them in one batch.

    Prompts of any length are streamed through the memory. A text depends on its own prompt and
    seed alone, not on the batch.

    Args:
      run: the model, from `lm2.load`.
      prompts: a text or several ones, or lists of token ids. If nothing was read before a text, it
        gets the tokenizer's BOS, as in training. A model that was trained on BABILong answers one
        that ends with a question mark. Token ids are taken as they are.
      question: asked after each prompt, or one for each, of such a model, in the form of its
        training; not with token ids. A prompt may be "" if there is a question or a state.
      max_new_tokens: of each text, at least 1; it may be more than a segment.
      temperature: 0 takes the most likely token each time.
      top_k, top_p, min_p: restrict the choice to likely tokens (`Sampling`); 0, 1 and 0 do not.
      repetition_penalty: above 1 makes tokens of the prompt and of the new text less likely.
      stop: the string, or several ones, before which a text ends.
      stop_ids: tokens at which a text ends; None = those of the tokenizer.
      seed: from 0 to 2**32 - 1, of all texts or of each.
      state: what was read before the prompts, from `lm2.read` or `Generation.state`: one for all
        prompts, or one for each.
      on_text: called with the number of a prompt and a piece of its text as soon as there is one.
      progress: called with the number of tokens of the prompts read since the last call.
      batch_size: rows that are computed at least, so that a short batch compiles nothing new.

    Returns:
      A `Generation` for each prompt.

    Raises:
      UserError: if an option is out of range, a prompt is empty, or a state is of another model.

    Example:

        run = lm2.load("runs/quickstart")
        answer, = lm2.generate(run, "John went to the kitchen. Where is John?")
        answer.text, answer.reason, answer.state
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty,
                        run.tokenizer.vocab_size)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    stop = [stop] if isinstance(stop, str) else stop
    if not all(stop):
        raise UserError("a stop string is empty")
    asked = _prompts(prompts)
    questions, seeds, before = (_each(value, len(asked), name) for value, name in (
        (question, "questions"), (seed, "seeds"), (state, "states")))
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise UserError(f"seed is {wrong[0]}; it must be from 0 to {2**32 - 1}")
    tokens = [_tokens(run, *row) for row in zip(range(len(asked)), asked, questions, before,
                                                strict=True)]
    engine = _engine(run)
    reading = engine.read(tokens, _joined(run, before), batch_size=batch_size, progress=progress)
    decoding = engine.generate(reading, sampling, max_new_tokens, seeds=seeds,
                               seen_BV=_seen(run, tokens, sampling))
    ends = run.tokenizer.stop_ids if stop_ids is None else frozenset(stop_ids)
    rows = [_Row(Writer(run.tokenizer, stop), ends, max_new_tokens) for _ in tokens]
    for token_B in decoding:
        for b, row in enumerate(rows):
            piece = "" if row.reason else row.add(int(token_B[b]))
            if piece and on_text:
                on_text(b, piece)
        if all(row.reason for row in rows):
            break
    after, steps = decoding.reading, max(len(row.tokens) for row in rows)

    def state_of(b: int) -> ReadState:
        sources, new = before[b].sources if before[b] else (), rows[b].tokens
        if len(new) == steps:
            return ReadState(run, after.take([b]), sources)
        # The row has ended before others, and went on.
        own = engine.read([np.array(new, np.int32)], reading.take([b]))
        return ReadState(run, own, sources)

    return [Generation("".join(row.pieces), tuple(row.tokens), row.reason or "length",
                       functools.partial(state_of, b)) for b, row in enumerate(rows)]


def read(run: Run, text: Prompt, state: ReadState | None = None, *, name: str = "text",
         progress: Progress = _nothing) -> ReadState:
    """Reads a text of any length, for questions to come; returns what the model keeps of it.

    Args:
      run: the model, from `lm2.load`.
      text: a text, or token ids.
      state: what was read before; the text is read as if it followed without a break.
      name: of the text, by which a file of several states is searched.
      progress: called with the number of tokens read since the last call.

    Returns:
      A `ReadState`: the memory and the tokens of the running segment, of the same size for a text
      of any length. Its `save` writes it to a file.

    Raises:
      UserError: if the text is empty, or the state is of another model.

    Example:

        run = lm2.load("runs/quickstart")
        book = lm2.read(run, open("book.txt").read())
        lm2.generate(run, ["Where is John?", "Where is Mary?"], state=book)
        book.save("book.safetensors")
    """
    return read_all(run, [ToRead(run, name, text, state)], progress=progress)[0]


class ToRead:
    """A text as it will be read.

    Attributes:
      tokens: of the text, after BOS if nothing was read before.
      state: what was read before, or None.
      sources: of the state, and this text.

    Raises:
      UserError: if the text is empty.
    """

    def __init__(self, run: Run, name: str, text: Prompt, state: ReadState | None = None):
        if isinstance(text, str):
            new, content = encoding.of_text(run, text), text.encode()
        else:
            new = encoding.array(text)
            content = np.asarray(new[:], "<i4").tobytes()
        if not len(new):
            raise UserError(f"{name} has no text to read")
        source = Source(name, hashlib.sha256(content).hexdigest(), len(new))
        begin = encoding.beginning(run, state is None and isinstance(text, str))
        self.tokens, self.state = encoding.joined(begin, new), state
        self.sources = (*(state.sources if state else ()), source)


def read_all(run: Run, texts: Sequence[ToRead], *, progress: Progress = _nothing,
             batch_size: int = 0) -> list[ReadState]:
    """Reads several texts in one batch; either all or none of them go on from a state.

    Args:
      progress: called with the number of tokens read since the last call.
      batch_size: rows that are computed at least.

    Raises:
      UserError: if the model has neither a memory nor an attention window.
    """
    if not (run.config.model.memory.num_layers or run.config.model.attention_window):
        raise UserError(f"{run.workdir or 'the model'} has neither a memory nor an attention "
                        "window, so that it would keep nothing of a text; read with a model that "
                        "has one (lm2 train --init-from=... gives a Llama a memory)")
    # With all places of the window, so that reading in parts computes the same bits.
    reading = _engine(run).read(
        [text.tokens for text in texts], _joined(run, [text.state for text in texts]),
        batch_size=batch_size, progress=progress, places=run.config.model.attention_window)
    return [ReadState(run, reading.take([b]), text.sources) for b, text in enumerate(texts)]


class _Row:
    """A text that is being generated.

    Attributes:
      tokens, pieces: so far.
      reason: why it has ended; "" while it goes on.
    """

    def __init__(self, writer: Writer, ends: frozenset[int], most: int):
        self._writer, self._ends, self._most = writer, ends, most
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self.reason: Literal["", "stop", "length"] = ""

    def add(self, token: int) -> str:
        """Adds a token; returns the text that can be shown now."""
        self.tokens.append(token)
        piece = "" if token in self._ends else self._writer.add(token)
        if token in self._ends or self._writer.stopped:
            self.reason = "stop"
        elif len(self.tokens) == self._most:
            self.reason = "length"
        if self.reason:
            piece += self._writer.close()
        self.pieces.append(piece)
        return piece


def _engine(run: Run) -> Engine:
    return Engine(run.model, run.variables, pad_id=run.tokenizer.pad_id)


def _prompts(prompts: Any) -> Sequence[Prompt]:
    """A list of prompts, also where one was given."""
    if isinstance(prompts, str):
        return [prompts]
    if not len(prompts):
        raise UserError("there are no prompts")
    return [prompts] if isinstance(prompts[0], int | np.integer) else prompts


def _tokens(run: Run, number: int, prompt: Prompt, question: str, state: ReadState | None
            ) -> Tokens:
    """The tokens of a prompt, by its number in messages."""
    if isinstance(prompt, str):
        tokens = encoding.of_prompt(run, prompt, question, first=state is None)
    elif question:
        raise UserError(f"prompt {number} is token ids, which have their question in them")
    else:
        tokens = encoding.array(prompt)
    if not len(tokens) and state is None:
        raise UserError(f"prompt {number} has no tokens; give a text, or a state")
    return tokens


def _each(value: Any, rows: int, name: str) -> list:
    """The value of each row, where one was given for all or one for each."""
    if value is None or isinstance(value, str | int | np.integer | ReadState):
        return [value] * rows
    if len(value) != rows:
        raise UserError(f"there are {len(value)} {name} for {rows} prompts; give one for all, or "
                        "one for each")
    return list(value)


def _joined(run: Run, before: Sequence[ReadState | None]) -> Reading | None:
    given = [state for state in before if state is not None]
    for state in given:
        state.require(run)
    if given and len(given) < len(before):
        raise UserError("some prompts have a state and others have none; ask them separately")
    return states.joined(given) if given else None


def _seen(run: Run, tokens: Sequence[Tokens], sampling: Sampling) -> np.ndarray | None:
    """Which tokens each prompt has, bool [B, V], for a repetition penalty."""
    if sampling.repetition_penalty == 1:
        return None
    seen_BV = np.zeros((len(tokens), run.config.model.vocab_size), bool)
    for b, row in enumerate(tokens):
        seen_BV[b, row[:]] = True
    return seen_BV
