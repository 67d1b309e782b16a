"""A tokenizer, as the package uses one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import tokenizers

from lm2_jax.data.tokenizer.special import ANSWER, END, ENDS_OF_TEXT, PAD, UNK
from lm2_jax.errors import UserError
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import write_text

CONFIG = "tokenizer_config.json"  # beside a tokenizer.json


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` with an answer mark and an end mark, made by `load` or `train`.

    A special token that is spelt out in a text is encoded as that token, as is usual in that
    library.

    Attributes:
      bos: the token that the tokenizer puts before a text; None if it puts none.
      eos: the end of a text, as tokenizer_config.json names it; None if it does not.
      pad: the padding token.
    """

    _tokenizer: tokenizers.Tokenizer
    bos: str | None = None
    eos: str | None = None
    pad: str = PAD

    @property
    def pad_id(self) -> int:
        return self._id(self.pad)

    @property
    def answer_id(self) -> int:
        return self._id(ANSWER)

    @property
    def end_id(self) -> int:
        return self._id(END)

    @property
    def eos_id(self) -> int | None:
        """The id of the end of a text; None if the tokenizer names none."""
        return None if self.eos is None else self._id(self.eos)

    @property
    def unk_id(self) -> int | None:
        """The id of unknown words; None if the tokenizer has none."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return self._tokenizer.token_to_id(name or UNK)

    @cached_property
    def bos_ids(self) -> tuple[int, ...]:
        """The id that a sequence begins with, or nothing."""
        return () if self.bos is None else (self._id(self.bos),)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: the end mark, and the tokenizer's own ends of a text."""
        added = self._tokenizer.get_added_tokens_decoder()
        ends = {i for i, token in added.items() if token.content in ENDS_OF_TEXT}
        named = {self._id(name) for name in (END, self.eos) if name}
        return frozenset(ends | named)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the serialized tokenizer; saving and loading keeps it."""
        config = self._config()
        written = self._tokenizer.to_str() + (json.dumps(config) if config else "")
        return hashlib.sha256(written.encode()).hexdigest()

    def id_of(self, token: str) -> int:
        """The id of a token of the vocabulary; a ValueError if there is no such token."""
        return self._id(token)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens.

        Raises:
          UserError: a word is unknown and the tokenizer has no token for that.
        """
        with _naming_unknown_words():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, one list of ids for each text."""
        with _naming_unknown_words():
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens skipped."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, path: str | os.PathLike) -> None:
        """Writes a tokenizer.json, each file atomically.

        A tokenizer_config.json beside it names BOS, EOS and PAD where the tokenizer has its own.
        """
        beside = paths.of(path).with_name(CONFIG)
        if config := self._config():
            write_text(beside, json.dumps(config, indent=2) + "\n")
        else:
            beside.unlink(missing_ok=True)
        write_text(path, self._tokenizer.to_str())

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return found

    def _config(self) -> dict[str, str | bool | None]:
        """What tokenizer_config.json says; empty for the tokens that we add ourselves."""
        config: dict[str, str | bool | None] = {
            "bos_token": self.bos, "add_bos_token": self.bos is not None,
            "eos_token": self.eos, "pad_token": self.pad}
        return config if (self.bos, self.eos, self.pad) != (None, None, PAD) else {}


@contextlib.contextmanager
def _naming_unknown_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # the library has no class of its own
            raise
        raise UserError("a text has words that the tokenizer does not know, and it has no token "
                        f"for unknown words ({error}); take another tokenizer") from None
