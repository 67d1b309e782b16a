"""The metrics of each step: metrics.jsonl, TensorBoard events and the progress bar."""

from pathlib import Path

import jax

from lm2_jax.config import ModelConfig
from lm2_jax.runtime import processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar
from lm2_jax.training.clock import Clock
from lm2_jax.training.trackers import Trackers
from lm2_jax.training.writers import MetricsWriter


class MetricsLog:
    """Writes the metrics of a run; only the primary process writes files.

    Args:
      first_step: steps that are done; lines of later steps in the files are dropped.
      trackers: that get the metrics too, on the primary process.
      answers: whether samples have answers, so that the bar shows how many are right.
    """

    def __init__(self, workdir: Path, model: ModelConfig, *, first_step: int, num_steps: int,
                 console: Console, answers: bool = True, trackers: Trackers | None = None):
        self._clock = Clock(model, jax.devices())
        self._bar = Bar("train", num_steps, first_step, console)
        self._writer = MetricsWriter(workdir, first_step, trackers) if (
            processes.is_primary()) else None
        self._segments = 0
        self._answers = answers

    def write(self, step: int, values: dict[str, float], segments: int,
              seconds: dict[str, float]) -> None:
        """Logs one step.

        Args:
          values: metrics of the training step; "tokens" among them.
          segments: segments of a row, which changes where a stage of the curriculum ends.
          seconds: cumulative wall time by phase.
        """
        if segments != self._segments:  # the first step of this shape was compiled
            self._clock.restart()
        self._segments = segments
        speed = self._clock.tick(values["tokens"])
        if self._writer:
            self._writer.write(step, {**values, "segments": segments, **speed, **seconds})
        rate = speed["tokens_per_second"]
        self._bar.update(step, "  ".join(
            [f"loss {values['loss']:.4f}",
             *([f"answers {values['answer_accuracy']:.3f}"] if self._answers else []),
             f"segments {segments}", *([f"{rate:,.0f} tokens/s"] if rate else [])]))

    def write_held_out(self, step: int, values: dict[str, float]) -> None:
        """Logs values of held-out batches after a step, as a line of their own."""
        if self._writer:
            self._writer.write(step, {**values})

    def pause(self) -> None:
        """Leaves the time until the next step out of the measured rate."""
        self._clock.restart()

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self._bar.close()
