"""Progress on the terminal: a bar where there is one, else a line now and then."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm2_jax.runtime.console import Console

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Progress over `total` units, with a text that changes; `unit` names them.

    On a terminal a bar with the time left; into a file or pipe a plain line every 15 s and at the
    end. What is `done` at the start does not count for the time left.
    """

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None,
                 unit: str = ""):
        self.console = console or Console()
        self._title, self._total, self._first = title, total, done
        self._unit, self._line = f" {unit}" if unit else "", ""
        self._begun = self._printed = time.perf_counter()
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
        rate = (done - self._first) / max(now - self._begun, 1e-9)
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
