"""The form of the output on stdout and stderr: plain text, prefixed lines, or JSON lines.

LM2_LOG=lines puts time, level, host, process and step before each line. LM2_LOG=json makes each
line a JSON object with these and the message. LM2_LOG_LEVEL=warning leaves out lines of the levels
debug and info.
"""

import datetime
import json
import os
import socket
from collections.abc import Mapping

from lm2_jax.errors import UserError

PLAIN, LINES, JSON = FORMS = ("plain", "lines", "json")
DEBUG, INFO, WARNING, ERROR = LEVELS = ("debug", "info", "warning", "error")

_process, _step = 0, None


def form(environment: Mapping[str, str] = os.environ) -> str:
    """The form that LM2_LOG sets; PLAIN if it has no known value."""
    found = environment.get("LM2_LOG", "") or PLAIN
    return found if found in FORMS else PLAIN


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raises a UserError if LM2_LOG or LM2_LOG_LEVEL has another value than those above."""
    for variable, known in (("LM2_LOG", FORMS), ("LM2_LOG_LEVEL", LEVELS)):
        if (value := environment.get(variable, "") or known[0]) not in known:
            raise UserError(f"{variable} is {value!r}; it must be one of {', '.join(known)}")


def at(process: int | None = None, step: int | None = None) -> None:
    """Sets the process or the step that later lines name."""
    global _process, _step
    _process, _step = _process if process is None else process, _step if step is None else step


def formatted(text: str, level: str = INFO) -> str | None:
    """The text in the form that is set; a form other than PLAIN has each of its lines by itself.

    Returns:
      None if the level is lower than LM2_LOG_LEVEL or, in a form other than PLAIN, if all lines
      are blank.
    """
    lowest = os.environ.get("LM2_LOG_LEVEL", "") or LEVELS[0]
    if lowest in LEVELS and LEVELS.index(level) < LEVELS.index(lowest):
        return None
    if form() == PLAIN:
        return text
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(_line(line, level) for line in lines) or None


def _line(text: str, level: str) -> str:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    host = socket.gethostname()
    if form() == JSON:
        return json.dumps({"time": now, "level": level, "host": host, "process": _process,
                           "step": _step, "message": text})
    step = "-" if _step is None else _step
    return f"{now} {level:7} {host}/{_process} step {step}: {text}"
