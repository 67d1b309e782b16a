"""Long texts: processed in pieces, their tokens kept in a file instead of in memory."""

import contextlib
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from lm2_jax.errors import UserError

PIECE = 2**16  # characters
_BLOCK = 2**16  # tokens
_CUT = re.compile(r".*(?= \S)", re.DOTALL)  # up to the last blank that stands before a word


def pieces(text: str) -> Iterator[str]:
    """A text that is in memory, in pieces of PIECE characters."""
    return (text[first:first + PIECE] for first in range(0, len(text), PIECE))


def parse(pieces: Iterable[str], take: Callable[[str, bool], tuple[list[str], str]]
          ) -> Iterator[str]:
    """The parts of a text that comes in pieces, found in time linear in its length.

    Args:
      take: given the text so far and whether it ends there, returns the parts that are whole and
        the text that is left. While nothing is whole it is called each time the text has doubled.
    """
    left, came, size = "", [], 0
    for piece in pieces:
        came.append(piece)
        size += len(piece)
        if size >= len(left):
            parts, left = take(left + "".join(came), False)
            came, size = [], 0
            yield from parts
    yield from take(left + "".join(came), True)[0]


def stripped_parts(pieces: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """A text without the white space at its ends, in parts of `size` characters or more.

    A part begins with a single blank before a word. Tokenizers that split at words split there as
    well, so that the parts have the tokens of the whole.
    """
    def take(text: str, ended: bool) -> tuple[list[str], str]:
        if ended:
            return [part for part in (text.rstrip(),) if part], ""
        cut = _CUT.match(text) if len(text) > size else None
        return ([cut[0]], text[cut.end():]) if cut and cut.end() else ([], text)

    return parse(_without_leading_space(pieces), take)


def _without_leading_space(pieces: Iterable[str]) -> Iterator[str]:
    pieces = iter(pieces)
    yield next((begun for piece in pieces if (begun := piece.lstrip())), "")
    yield from pieces


@contextlib.contextmanager
def _explaining_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the tokens of a context cannot be written to {tempfile.gettempdir()}: "
                        f"{error.strerror}; set TMPDIR to another folder") from None


class Spool:
    """An unnamed temporary file that holds the tokens of any number of texts.

    Attributes:
      size: tokens written so far.
    """

    def __init__(self):
        self._file, self.size = tempfile.TemporaryFile(), 0
        weakref.finalize(self, self._file.close)

    def write(self, tokens: np.ndarray) -> None:
        """Appends int32 tokens."""
        with _explaining_errors():
            self._file.write(tokens.tobytes())
        self.size += len(tokens)

    def read(self, first: int, stop: int) -> np.ndarray:
        """Tokens number `first` to `stop` - 1, int32."""
        with _explaining_errors():
            self._file.flush()
        return np.frombuffer(os.pread(self._file.fileno(), 4 * (stop - first), 4 * first), np.int32)


class Text:
    """The tokens of a text, kept in a file and read by slices.

    Args:
      parts: the int32 ids of each sentence; iterated once.
      spool: the file they are appended to; None = a file of their own.
    """

    def __init__(self, parts: Iterable[Sequence[int]], spool: Spool | None = None):
        self._spool = spool or Spool()
        self._start = self._spool.size
        for part in parts:
            tokens = np.array(part, np.int32)
            tokens[:1] = ~tokens[:1]  # stored negative, which marks the beginning of a sentence
            self._spool.write(tokens)
        self._length = self._spool.size - self._start

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens, int32."""
        first, stop, _ = part.indices(self._length)
        return _unmarked(self._read(first, max(first, stop)))

    def sentences(self) -> Iterator[np.ndarray]:
        """The sentences that have tokens, in order; int32 each."""
        rest = np.empty(0, np.int32)
        for first in range(0, self._length, _BLOCK):
            block = np.append(rest, self._read(first, min(first + _BLOCK, self._length)))
            *whole, rest = np.split(block, np.flatnonzero(block < 0))
            yield from (_unmarked(sentence) for sentence in whole if len(sentence))
        if len(rest):
            yield _unmarked(rest)

    def _read(self, first: int, stop: int) -> np.ndarray:
        return self._spool.read(self._start + first, self._start + stop)


def _unmarked(tokens: np.ndarray) -> np.ndarray:
    return tokens ^ (tokens >> 31)
