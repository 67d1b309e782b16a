"""Perplexity by segment of a document, with intervals over documents.

Every figure is a ratio of sums over documents: nats by tokens, words or bytes. Its 95 % interval is
that of the ratio estimator, r +- t * se, with Student's t of n - 1 degrees of freedom for n
documents, and

    se = sqrt(n / (n - 1) * sum over documents of (nats - r * tokens)^2) / sum of tokens

so that a document counts as one observation, however long it is. One document has no interval.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import write_text

FILE, DOCUMENTS = "perplexity.json", "documents.json"
WHOLE = "all"  # in place of a range of segments
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The perplexity of some segments of the documents of a corpus.

    Attributes:
      corpus: its folder.
      segments: their numbers within a document, as "0" or "4-7"; "all" of those that were read.
      memory: "carried", or "reset" if the memory was reset at each segment.
      documents: that have such a segment.
      tokens: that were predicted, as words and bytes.
      loss: mean cross-entropy of a token, in nats.
      perplexity: of a token, exp(loss).
      word_perplexity: exp(nats / words); None of a text without a word.
      bits_per_byte: nats / ln 2 / bytes of UTF-8; None of an empty text.
      saved: nats a token by which the loss is lower with the memory carried than with it reset;
        None where both were not measured.
    """

    corpus: str
    segments: str
    memory: str
    documents: int
    tokens: int
    words: float
    bytes: float
    loss: float
    loss_interval: Interval | None
    perplexity: float
    perplexity_interval: Interval | None
    word_perplexity: float | None
    word_perplexity_interval: Interval | None
    bits_per_byte: float | None
    bits_per_byte_interval: Interval | None
    saved: float | None = None
    saved_interval: Interval | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of a document, [segments] each.

    Attributes:
      nats: cross-entropy, by memory mode.
      tokens: that were predicted.
      words, bytes: of the text; fractions, since both are divided among the segments.
      number: of the document in its split.
    """

    nats: Mapping[str, np.ndarray]
    tokens: np.ndarray
    words: np.ndarray
    bytes: np.ndarray
    number: int = 0


@dataclass(frozen=True)
class Sums:
    """The sums of a document over the segments that were read, for paired comparisons.

    Attributes:
      corpus, memory, tokens, words, bytes: as in `Row`.
      document: its number in the split.
      nats: cross-entropy.
    """

    corpus: str
    document: int
    memory: str
    tokens: int
    words: float
    bytes: float
    nats: float


def sums(corpus: str, documents: Sequence[Measured]) -> list[Sums]:
    """The sums of each document in each memory mode."""
    return [Sums(corpus, d.number, mode, int(d.tokens.sum()), round(float(d.words.sum()), 1),
                 round(float(d.bytes.sum()), 1), float(nats.sum()))
            for d in documents for mode, nats in d.nats.items()]


def ranges(segments: int) -> list[tuple[int, int]]:
    """(first, end) of the groups of segments: 0, 1, 2-3, 4-7, ..."""
    ends = [1 << power for power in range((segments - 1).bit_length() + 1)]
    return [(0, 1), *zip(ends, ends[1:], strict=False)]


def rows(corpus: str, documents: Sequence[Measured]) -> list[Row]:
    """The rows of a corpus: each group of segments and all of them, in each memory mode."""
    longest = max(len(document.tokens) for document in documents)
    groups = {str(first) if end == first + 1 else f"{first}-{end - 1}": (first, end)
              for first, end in ranges(longest)} | {WHOLE: (0, longest)}
    found = []
    for mode in documents[0].nats:
        for name, (first, end) in groups.items():
            having = [d for d in documents if d.tokens[first:end].sum()]
            if having:
                found.append(_row(corpus, name, mode, having, slice(first, end)))
    return found


def _row(corpus: str, segments: str, mode: str, documents: Sequence[Measured], part: slice) -> Row:
    nats, saved, tokens, words, size = (np.array(values) for values in zip(*(
        [values[part].sum() for values in (
            d.nats[mode], d.nats.get("reset", d.nats[mode]) - d.nats[mode], d.tokens, d.words,
            d.bytes)] for d in documents), strict=True))
    loss, loss_interval = ratio(nats, tokens)
    of_word, of_word_interval = ratio(nats, words)
    bits, bits_interval = ratio(nats / math.log(2), size)
    both = mode == "carried" and "reset" in documents[0].nats
    return Row(corpus, segments, mode, len(documents), int(tokens.sum()),
               round(float(words.sum()), 1), round(float(size.sum()), 1), loss, loss_interval,
               _exp(loss), _exp_of(loss_interval), _exp(of_word), _exp_of(of_word_interval), bits,
               bits_interval, *(ratio(saved, tokens) if both else ()))


def ratio(values: np.ndarray, sizes: np.ndarray) -> tuple[Any, Interval | None]:
    """sum(values) / sum(sizes) over documents, with its 95 % interval (see the module).

    The ratio is None if the sizes are 0, and the interval is None for one document.
    """
    from scipy import special  # changes the process's warning filters

    n, total = len(values), sizes.sum()
    if not total:
        return None, None
    found = float(values.sum() / total)
    if n == 1:
        return found, None
    error = math.sqrt(n / (n - 1) * np.sum(np.square(values - found * sizes))) / total
    half = float(special.stdtrit(n - 1, 0.975) * error)
    return found, (found - half, found + half)


def _exp(value: Any) -> Any:
    """exp, or 1e308 in place of an overflow, for which JSON has no number; None of None."""
    return value if value is None else math.exp(value) if value < 709 else 1e308


def _exp_of(interval: Interval | None) -> Interval | None:
    return (_exp(interval[0]), _exp(interval[1])) if interval else None


def write_rows(folder: Path, found: Sequence[Row]) -> None:
    """Writes folder/perplexity.json, a list of objects with the fields of `Row`."""
    _write(folder / FILE, found)


def write_sums(folder: Path, found: Sequence[Sums]) -> None:
    """Writes folder/documents.json, a list of objects with the fields of `Sums`."""
    _write(folder / DOCUMENTS, found)


def _write(path: Path, found: Sequence[Row] | Sequence[Sums]) -> None:
    write_text(path, json.dumps([dataclasses.asdict(one) for one in found], indent=2) + "\n")


def read_rows(folder: str | Path) -> list[Row]:
    """Reads folder/perplexity.json.

    Raises:
      UserError: it is not there, or is not a list of objects with the fields of `Row`.
    """
    path = paths.of(folder) / FILE
    if not path.is_file():
        raise UserFileNotFoundError(f"{path} does not exist, run an evaluation first")
    return _read(path, Row)


def read_sums(folder: str | Path) -> list[Sums]:
    """Reads folder/documents.json; [] where an earlier version wrote none.

    Raises:
      UserError: it is not a list of objects with the fields of `Sums`.
    """
    path = paths.of(folder) / DOCUMENTS
    return _read(path, Sums) if path.is_file() else []


def _read(path: Path, kind: type) -> list[Any]:
    try:
        return [kind(**{name: tuple(value) if isinstance(value, list) else value
                        for name, value in values.items()})
                for values in json.loads(path.read_text("utf-8"))]
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold a list of results: {error}") from error
