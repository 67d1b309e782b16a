"""A trace of some training steps, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from lm2_jax.errors import UserError
from lm2_jax.runtime import files, paths
from lm2_jax.runtime.console import Console


class Profile:
    """Traces the steps `first` to `last` into a folder, one file for each host.

    Args:
      steps: (first, last), or None for no trace.
      done: steps that a resumed run has done; if `first` is among them, no trace is written
        and a line says so.
    """

    def __init__(self, folder: str | Path, steps: tuple[int, int] | None, console: Console,
                 done: int = 0):
        self._folder, self._steps, self._console = paths.of(folder), steps, console
        self._running = False
        if steps and steps[0] <= done:
            self._steps = None
            console.print(f"no trace of steps {steps[0]} to {steps[1]}: the run resumes after step "
                          f"{done}")

    def on_step_start(self, step: int) -> None:
        if self._steps and step == self._steps[0]:
            self._local = files.local_folder(self._folder)
            jax.profiler.start_trace(str(self._local.__enter__()))
            self._running = True

    def ended(self, step: int, result: Any) -> None:
        """Called after a step is dispatched; waits for `result` of the last one."""
        if self._running and self._steps and step == self._steps[1]:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes the trace, also of a run that ends before the last step."""
        if self._running:
            jax.profiler.stop_trace()
            self._local.__exit__(None, None, None)
            self._running = False
            self._console.print(f"trace in {self._folder} (tensorboard --logdir, or Perfetto)")


def parse(text: str) -> tuple[int, int]:
    """Parses START:END into two steps.

    Raises:
      ValueError: in one line.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile is {text!r}; it must be START:END, two steps, such as 10:12")
    return int(first), int(last)
