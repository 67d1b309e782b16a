"""The loss on held-out batches in the middle of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from lm2_jax.runtime.console import Console
from lm2_jax.training.writers import read_lines
from lm2_jax.types import Batch, Params

KEY = "held_out_loss"  # in metrics.jsonl


class HeldOutLoss:
    """Measures the loss on the same batches each time; each step once, also across resumes.

    Args:
      loss: (params, batch) -> (summed loss, in nats, summed loss weight).
      batches: on the devices; none measures nothing.
      workdir: of the run.
      first_step: steps that are done.
      write: (step, values) -> None: adds a line to metrics.jsonl.
    """

    def __init__(self, loss: Callable, batches: Sequence[Batch], workdir: Path, first_step: int,
                 write: Callable[[int, dict[str, float]], None], console: Console):
        self._loss, self._batches, self._write, self._console = loss, batches, write, console
        self._done = {line["step"] for line in read_lines(workdir / "metrics.jsonl")
                      if KEY in line and line["step"] <= first_step}

    def is_due(self, step: int) -> bool:
        return bool(self._batches) and step not in self._done

    def run(self, step: int, params: Params, between: Callable[[], None]) -> None:
        """Measures, writes and prints the loss; calls `between` after each batch."""
        sums = []
        for batch in self._batches:
            sums.append(jax.device_get(self._loss(params, batch)))
            between()
        loss, weight = np.sum(sums, axis=0)
        mean = float(loss / max(weight, 1e-6))
        self._write(step, {KEY: mean})
        self._console.print(f"step {step}: held-out loss {mean:.4f} nats a token, perplexity "
                            f"{np.exp(mean):,.2f}")
        self._done.add(step)
