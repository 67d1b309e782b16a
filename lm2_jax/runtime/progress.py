"""Shows progress: a bar on a terminal, otherwise a line every 15 seconds."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm2_jax.runtime.console import Console

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Shows how many of `total` units are done, a text, and an estimate of the time left.

    Args:
      title: of the bar.
      total: number of units.
      done: units done before the start; the estimate does not count them.
      console: where to print; None = stdout.
      unit: name of a unit, such as "tokens"; "" = none.
    """

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None,
                 unit: str = ""):
        self.console = console or Console()
        self._title, self._total, self._first = title, total, done
        self._unit, self._line = f" {unit}" if unit else "", ""
        self._began = self._printed = time.perf_counter()
        self._bar = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn(self._unit.strip()), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console)
            self._task = self._bar.add_task(title, total=total, completed=done, text="")
            self._bar.start()

    def update(self, done: int, text: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.perf_counter()
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f"{(self._total - done) / rate:.0f} s left" if rate else ""
        where = f"{self._title} {done}/{self._total}{self._unit}"
        self._line = f"{where}  {text}  {left}".rstrip()
        if now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            self._print()

    def _print(self) -> None:
        if self._line:
            self.console.print(self._line)
        self._line = ""

    def close(self) -> None:
        """Ends the bar, or prints the last line."""
        if self._bar:
            self._bar.stop()
        self._print()
