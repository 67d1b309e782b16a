"""JSON values one by one, of a list or of lines; long texts in them are handed on in pieces."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

Take = Callable[[Iterable[str]], Any]

_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\[\], \t\r\n]*")
_BLANK = re.compile(r"[ \t\r\n]*")
# Of a string, as far as its escapes are whole.
_CHARACTERS = re.compile(r'[^"\\]*(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*)*')
_ESCAPE = len(r"\u0000")


class NotJson(ValueError):
    """Says why; `line` is that of the value, 0 in a list."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


def values(file: TextIO, taken: Mapping[str, Take], chunk: int) -> Iterator[tuple[int, Any]]:
    """Values, each as soon as it is whole.

    Args:
      taken: by keys of the objects, what is made of a text that stands there: a function of its
        pieces, which it must exhaust.
      chunk: characters read at once.

    Yields:
      The line where the value begins, 0 in a list, and the value.

    Raises:
      NotJson: what comes next is no value.
    """
    reader = _Reader(file, taken, chunk)
    listed = reader.next(_BLANK) == "["
    while char := reader.next(_BETWEEN):
        line = 0 if listed else reader.line
        try:
            value = reader.object() if char == "{" else reader.value()
        except json.JSONDecodeError as error:
            raise NotJson(line, error.msg) from None
        yield line, value
    if listed and "]" not in reader.passed:
        raise NotJson(0, "the list does not end")


class _Reader:
    """A file up to where it was read: `text` from `at` on is still to be parsed; `passed` is what
    `next` last passed over."""

    def __init__(self, file: TextIO, taken: Mapping[str, Take], chunk: int):
        self._file, self._taken, self._chunk = file, taken, chunk
        self._text, self._at, self.line, self.passed = "", 0, 1, ""

    def next(self, passed: re.Pattern) -> str:
        """The first character that is not passed over; "" at the end of the file."""
        self.passed = ""
        while True:
            end = passed.match(self._text, self._at).end()
            self.passed += self._text[self._at:end]
            self._go(end)
            if self._at < len(self._text) or not self._more(self._chunk):
                return self._text[self._at:self._at + 1]

    def value(self) -> Any:
        """What is read at once doubles until the value is whole, so that a long one is scanned
        only a few times."""
        size = self._chunk
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = (error.msg.startswith("Unterminated")
                       or error.pos > len(self._text) - 3 * _ESCAPE)
                if not cut or not self._more(size):
                    raise
            else:
                if end < len(self._text) - 2 or not self._more(size):  # a number might go on
                    self._go(end)
                    return value
            size *= 2

    def object(self) -> dict[str, Any]:
        found = {}
        self._pass("{")
        if self.next(_BLANK) == "}":
            self._pass("}")
            return found
        while True:
            if self.next(_BLANK) != '"':
                raise json.JSONDecodeError("Expecting a key in double quotes", "", 0)
            key = self.value()
            self._pass(":")
            text = self.next(_BLANK) == '"' and key in self._taken
            found[key] = self._taken[key](self._pieces()) if text else self.value()
            if self._pass(",}") == "}":
                return found

    def _pieces(self) -> Iterator[str]:
        """Those of the string that comes next."""
        self._pass('"')
        while True:
            end = _CHARACTERS.match(self._text, self._at).end()
            closed = self._text[end:end + 1] == '"'
            if not closed and len(self._text) - end >= _ESCAPE:
                end += _ESCAPE  # a wrong escape, of which the next line tells
            piece = json.loads(f'"{self._text[self._at:end]}"')
            if not closed and "\ud800" <= piece[-1:] <= "\udbff":  # half a character
                piece, end = piece[:-1], end - _ESCAPE
            yield piece
            self._go(end)
            if closed:
                self._pass('"')
                return
            if not self._more(self._chunk):
                raise json.JSONDecodeError("Unterminated string", "", 0)

    def _pass(self, chars: str) -> str:
        char = self.next(_BLANK)
        if not char or char not in chars:
            raise json.JSONDecodeError(f"Expecting {' or '.join(chars)}", "", 0)
        self._go(self._at + 1)
        return char

    def _go(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _more(self, size: int) -> bool:
        read = self._file.read(size)
        if read:
            self._text, self._at = self._text[self._at:] + read, 0
        return bool(read)
