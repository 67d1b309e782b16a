"""Background prose: loads it, splits it into sentences, tokenizes it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.data.prose import generator
from lm2_jax.data.text import json_file, parquet
from lm2_jax.data.text.pieces import parse
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

GENERATED = "generated"
_SENTENCES_PER_DOCUMENT = 100
_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_ENCODE_BATCH = 4096
_PARQUET_ROWS = 65_536  # in memory at a time

_PARAGRAPH = re.compile(r"\n\s*\n")
# The end of a sentence: a mark, closing quotes, a blank, and what the next sentence may begin with.
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]* (?=[—–-]*["'“‘(\[]*[A-Z0-9À-ÖØ-Þ])""")
_ABBREVIATIONS = frozenset(
    """Mr Mrs Ms Messrs Mme Mlle Dr St Ste Mt Ft Rev Hon Prof Capt Col Gen Maj Lieut Lt Sgt Cpl Gov
    Sen Rep Pres Adm Supt Vol vol Chap chap Fig fig cf viz i.e e.g""".split()
)
_BEFORE_A_NUMBER = frozenset("No no p pp".split())


def _ends_abbreviation(word: str, following: str) -> bool:
    """Whether the full stop after `word` is part of it, `following` being the next character."""
    if word in _BEFORE_A_NUMBER:
        return following.isdigit()
    initials = word != "I" and all(len(c) == 1 and c.isupper() for c in word.split("."))
    return initials or word in _ABBREVIATIONS


def _split_paragraph(text: str) -> Iterator[str]:
    start = 0
    for found in _SENTENCE_END.finditer(text):
        stop, end = found.span()
        if text[stop] == "." and end == stop + 2:
            word = re.split(r"[^\w.]", text[text.rfind(" ", 0, stop) + 1 : stop])[-1]
            if _ends_abbreviation(word, text[end]):
                continue
        yield text[start : end - 1]
        start = end
    yield text[start:]


def split_sentences(text: str) -> list[str]:
    """The sentences of English prose, white space reduced to single blanks.

    A blank line ends a sentence, a line break alone does not. Titles, initials and other
    abbreviations do not, and neither does a mark that a lower-case letter follows.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text))
    return [s for paragraph in paragraphs if paragraph for s in _split_paragraph(paragraph)]


def sentences_of(pieces: Iterable[str]) -> Iterator[str]:
    """As `split_sentences` of a text that comes in pieces."""
    def take(text: str, ended: bool) -> tuple[list[str], str]:
        *sentences, last = split_sentences(text) or [""]
        if ended:
            return [*sentences, last] if last else [], ""
        return sentences, last + text[len(text.rstrip()):]

    return parse(pieces, take)


def _json_texts(path: Path) -> Iterator[str]:
    for where, value in json_file.values(path):
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{where}: expected {{"text": "..."}}')
        yield text


def _texts(path: Path) -> Iterator[str]:
    """The documents of one file."""
    try:
        if path.name.endswith(".txt"):
            yield path.read_text(encoding="utf-8-sig")
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_texts(path)
        else:
            rows = parquet.rows(path, ("text",), _PARQUET_ROWS)
            yield from filter(None, (row["text"] for row in rows))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be read") from None


def _files(source: Path) -> list[Path]:
    expected = "expected " + ", ".join(_SUFFIXES)
    if source.is_dir():
        files = [p for p in sorted(source.rglob("*")) if p.is_file() and p.name.endswith(_SUFFIXES)]
        if not files:
            raise UserError(f"no background texts in the folder {source}: {expected}")
        return files
    if not source.is_file():
        raise UserFileNotFoundError(f"no background at {source}: expected a file or a folder")
    if not source.name.endswith(_SUFFIXES):
        raise UserError(f"background file {source} is of an unknown kind: {expected}")
    return [source]


def load(
    source: str | os.PathLike, *, seed: int = 0, num_sentences: int = 20_000
) -> list[list[str]]:
    """Documents, each a list of sentences.

    Args:
      source: "" or "generated" for generated prose; or a .txt file (one document), a .jsonl or
        .jsonl.gz file ({"text": ...} on each line, a document each), a .parquet file (column
        `text`), or a folder of such files, such as PG-19's, read recursively in the order of
        their names. Text is UTF-8, with or without a byte order mark.
      seed: of the generator; sentence i depends on (seed, i) alone.
      num_sentences: to generate.

    Raises:
      FileNotFoundError: there is nothing at `source`.
      ValueError: there is no text, or a file cannot be read.
    """
    if os.fspath(source) in ("", GENERATED):
        if num_sentences < 1:
            raise UserError(f"num_sentences must be at least 1, got {num_sentences}")
        sentences = generator.sentences(seed, num_sentences)
        step = _SENTENCES_PER_DOCUMENT
        return [sentences[i : i + step] for i in range(0, num_sentences, step)]
    texts = itertools.chain.from_iterable(map(_texts, _files(paths.of(source))))
    documents = [document for document in map(split_sentences, texts) if document]
    if not documents:
        raise UserError(f"the background {source} holds no text")
    return documents


@dataclass(frozen=True, eq=False)
class TokenizedBackground:
    """A corpus of S sentences as token ids.

    Attributes:
      tokens: int32, all sentences one after another.
      starts: int64 [S + 1], where each sentence starts in `tokens`; the last is their end.
    """

    tokens: np.ndarray
    starts: np.ndarray

    def __post_init__(self):
        if len(self.starts) < 2 or self.starts[0] != 0 or self.starts[-1] != len(self.tokens):
            raise ValueError("starts must run from 0 to len(tokens) and hold a sentence or more")
        if len(self.tokens) == 0:
            raise ValueError("a tokenized background must hold a token or more")

    @property
    def num_sentences(self) -> int:
        return len(self.starts) - 1

    def passage(self, start: int, num_tokens: int) -> Passage:
        """Consecutive sentences from number `start` on; after the last one follows the first."""
        if num_tokens < 0:
            raise ValueError(f"num_tokens must not be negative, got {num_tokens}")
        return Passage(self, start % self.num_sentences, num_tokens)


@dataclass(frozen=True, eq=False)
class Passage:
    """Consecutive prose, read from the corpus by slices; the last sentence is cut to fit.

    Attributes:
      background: the corpus; after its last sentence follows its first.
      start: index of the first sentence.
      num_tokens: length of the passage.
    """

    background: TokenizedBackground
    start: int
    num_tokens: int

    def __len__(self) -> int:
        return self.num_tokens

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens, int32."""
        tokens = self.background.tokens
        first, stop, _ = part.indices(self.num_tokens)
        begin = (int(self.background.starts[self.start]) + first) % len(tokens)
        end = begin + max(stop - first, 0)
        if end <= len(tokens):
            return tokens[begin:end].copy()
        return np.take(tokens, np.arange(begin, end), mode="wrap")

    def sentences_before(self, position: int) -> int:
        """The number of sentences that begin before the token at `position`."""
        starts, total = self.background.starts, len(self.background.tokens)
        laps, rest = divmod(int(starts[self.start]) + min(position, self.num_tokens), total)
        return (laps * self.background.num_sentences - self.start
                + int(starts[:-1].searchsorted(rest)))

    def borders(self, numbers: np.ndarray) -> np.ndarray:
        """The positions at which these sentences of the passage begin, int64.

        A sentence after the last one begins at `num_tokens`.
        """
        starts, total = self.background.starts, len(self.background.tokens)
        laps, sentences = np.divmod(self.start + numbers, self.background.num_sentences)
        return np.minimum(starts[sentences] + laps * total - starts[self.start], self.num_tokens)


def tokenize(
    documents: Iterable[Iterable[str]],
    encode_batch: Callable[[Sequence[str]], list[list[int]]],
    min_tokens: int = 4,
) -> TokenizedBackground:
    """Tokenizes each sentence by itself and drops those of fewer than `min_tokens` tokens.

    Raises:
      ValueError: no sentence remains.
    """
    sentences = itertools.chain.from_iterable(documents)
    tokens: list[np.ndarray] = []
    lengths: list[int] = [0]
    while batch := list(itertools.islice(sentences, _ENCODE_BATCH)):
        kept = [ids for ids in encode_batch(batch) if len(ids) >= max(min_tokens, 1)]
        lengths += map(len, kept)
        tokens.append(np.fromiter(itertools.chain.from_iterable(kept), np.int32))
    if len(lengths) == 1:
        raise UserError(f"no sentence of the background has {min_tokens} tokens or more")
    return TokenizedBackground(np.concatenate(tokens), np.cumsum(lengths, dtype=np.int64))
