"""Shows progress: a bar on a terminal or in a notebook, otherwise a line every 15 seconds."""

import collections
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm2_jax.runtime.console import Console

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_UPDATES = 0.5  # of the line in a notebook
SECONDS_OF_RATE = 60.0  # over which the rate is measured that tells the time left
_WIDTH = 24  # of the bar in a notebook


class Bar:
    """Shows how many of `total` units are done, a text, and an estimate of the time left.

    Args:
      title: of the bar.
      total: number of units.
      done: units done before the start; the estimate, from the rate of the last minute, does not
        count them.
      console: where to print; None = stdout.
      unit: name of a unit, such as "tokens"; "" = none.
    """

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None,
                 unit: str = ""):
        self.console = console or Console()
        self._title, self._total = title, total
        self._unit, self._line = f" {unit}" if unit else "", ""
        self._printed = time.perf_counter()
        self._seen = collections.deque([(self._printed, done)])  # (when, units) of the last minute
        self._bar = None
        self._in_notebook = self.console.is_jupyter and not self.console.quiet
        self._output = None  # of the notebook's cell
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn(self._unit.strip()), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console, speed_estimate_period=SECONDS_OF_RATE)
            self._task = self._bar.add_task(title, total=total, completed=done, text="")
            self._bar.start()

    def update(self, done: int, text: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.perf_counter()
        rate = self._rate(now, done)
        left = f"{(self._total - done) / rate:.0f} s left" if rate else ""
        where = f"{self._title} {done}/{self._total}{self._unit}"
        if self._in_notebook:
            full = round(_WIDTH * min(done / max(self._total, 1), 1.0))
            where = f"{self._title} {'█' * full}{'░' * (_WIDTH - full)} {done}/{self._total}"
            where += self._unit
        self._line = f"{where}  {text}  {left}".rstrip()
        seconds = SECONDS_BETWEEN_UPDATES if self._in_notebook else SECONDS_BETWEEN_LINES
        if now - self._printed >= seconds:
            self._printed = now
            self._print()

    def _rate(self, now: float, done: int) -> float:
        """Units a second over the last minute, or since the start."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - SECONDS_OF_RATE:
            self._seen.popleft()
        began, first = self._seen[0]
        if now - self._seen[-1][0] >= 1:
            self._seen.append((now, done))
        return (done - first) / max(now - began, 1e-9)

    def _print(self) -> None:
        if self._line and self._in_notebook:
            self._output = _shown(self._line, self._output)
        elif self._line:
            self.console.print(self._line)
        self._line = ""

    def close(self) -> None:
        """Ends the bar, or prints the last line."""
        if self._bar:
            self._bar.stop()
        self._print()


def _shown(line: str, output: Any) -> Any:
    """Shows a line below a notebook's cell, in place of the line before; returns its handle."""
    from IPython.display import DisplayHandle  # it is there where a notebook is

    if output is None:
        output = DisplayHandle()
        output.display({"text/plain": line}, raw=True)
    else:
        output.update({"text/plain": line}, raw=True)
    return output
