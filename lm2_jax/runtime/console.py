"""Terminal output that never stops a run.

Writing to stdout or stderr can fail at any time: the reader of a pipe exits, the disk of a log file
is full, a terminal cannot encode a character. Training continues in each of these cases.
"""

import os
import sys
import time
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console as RichConsole
from rich.text import Text

from lm2_jax.runtime import logs

_fallback: Path | None = None


class Console(RichConsole):
    """A rich console with plain text by default: no markup, no colours, no hard wrapping.

    So `[...]` in a path is printed as it is, and a long path stays on one line. Tables and other
    renderables are fitted to the width as usual. Unless `file` is given it writes to stdout, in the
    form that `lm2_jax.runtime.logs` states, and errors of writing are handled as `SafeStream`
    states.
    """

    def __init__(self, *, file: TextIO | None = None, markup: bool = False,
                 emoji: bool = False, highlight: bool = False, **options):
        stream = file or cast(TextIO, SafeStream("stdout"))  # it has what rich calls
        self._form = logs.PLAIN if file else logs.form()
        if self._form != logs.PLAIN:
            options = options | dict(force_terminal=False, force_jupyter=False)
        super().__init__(file=stream, markup=markup, emoji=emoji, highlight=highlight, **options)

    def print(self, *objects, soft_wrap: bool | None = None, **options) -> None:
        if soft_wrap is None:
            soft_wrap = all(isinstance(value, str) for value in objects)
        if self._form == logs.PLAIN and not os.environ.get("LM2_LOG_LEVEL"):
            super().print(*objects, soft_wrap=soft_wrap, **options)
            return
        with self.capture() as captured:
            super().print(*objects, soft_wrap=soft_wrap, **options)
        text = logs.formatted(captured.get().rstrip("\n"))
        if text is not None:
            super().print(Text(text), soft_wrap=True)


class SafeStream:
    """`sys.stdout` or `sys.stderr`, whichever object that is at the time, without its errors.

    - A character that the encoding lacks is replaced.
    - Where a write fails, this and all later output of the process to that stream goes to the
      file of `redirect_failed_output_to`, or is dropped if there is none or it fails as well.

    Args:
      name: "stdout" or "stderr".
    """

    def __init__(self, name: str):
        self._name = name

    def write(self, text: str) -> int:
        stream = self._stream()
        if stream is None:
            return len(text)
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            return self.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            _redirect(stream, self._name, error)
        return len(text)

    def flush(self) -> None:
        stream = self._stream()
        if stream is None:
            return
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            _redirect(stream, self._name, error)

    def isatty(self) -> bool:
        stream = self._stream()
        try:
            return stream is not None and stream.isatty()
        except ValueError:
            return False

    @property
    def encoding(self) -> str:
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def fileno(self) -> int:
        stream = self._stream()
        if stream is None:
            raise OSError(f"there is no {self._name}")
        return stream.fileno()

    def _stream(self) -> TextIO | None:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # what a rich progress bar replaced


def print_error(line: str, level: str = logs.ERROR) -> None:
    """Prints a line to stderr; does nothing if that fails."""
    text = logs.formatted(line, level)
    if text is None:
        return
    stream = SafeStream("stderr")
    stream.write(f"{text}\n")
    stream.flush()


def redirect_failed_output_to(path: str | os.PathLike | None) -> None:
    """Sets the file that gets the output of a stream once writing to it fails. It is created then.

    The setting holds for the process, as stdout and stderr do. None = output is dropped.
    """
    global _fallback
    _fallback = Path(path) if path else None


def _redirect(stream: TextIO, name: str, error: Exception) -> None:
    """Points the stream's file descriptor elsewhere, so that Python's last flush succeeds too."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return  # not a file of the operating system
    reason = getattr(error, "strerror", None) or str(error)
    try:
        if _fallback is None or _is_open_as(descriptor, _fallback):
            raise OSError
        file = os.open(_fallback, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name} cannot be written ({reason}); "
                       "its output continues here\n".encode())
    except OSError:
        file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, descriptor)
    os.close(file)
    if name == "stdout" and _fallback is not None:
        print_error(f"stdout cannot be written ({reason}); the run continues, its output goes to "
                    f"{_fallback}")


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
