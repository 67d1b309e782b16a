"""Ends a stage of the curriculum early, by its accuracy on held-out batches."""

from collections.abc import Callable

import jax
import numpy as np

from lm2_jax.training.curriculum import Curriculum, Stage
from lm2_jax.training.writers import JsonLines
from lm2_jax.types import Batch, Params


class HeldOutAccuracy:
    """The accuracy of answers on held-out batches of a stage, the same ones at every call.

    Args:
      make_batches: (stage) -> batches on the devices.
      accuracy: (params, batch) -> (answers that are right, answers).
    """

    def __init__(self, make_batches: Callable[[Stage], list[Batch]], accuracy: Callable):
        self._make_batches, self._accuracy = make_batches, accuracy
        self._stage: Stage = ()
        self._batches: list[Batch] = []

    def __call__(self, params: Params, stage: Stage) -> float:
        if stage != self._stage:  # the batches of one stage are kept at a time
            self._stage, self._batches = stage, self._make_batches(stage)
        found = [self._accuracy(params, batch) for batch in self._batches]
        hits, answers = np.sum(jax.device_get(found), axis=0)
        return float(hits / max(answers, 1))


class StageEvaluator:
    """Evaluates a run's stage and decides whether it ends.

    Args:
      accuracy: (params, stage) -> accuracy on held-out batches of the stage.
      log: of every decision; None on processes that write no files.
    """

    def __init__(self, curriculum: Curriculum, accuracy: Callable[[Params, Stage], float],
                 log: JsonLines | None):
        self._curriculum, self._accuracy, self._log = curriculum, accuracy, log

    def segments_at(self, step: int) -> int:
        """Segments of a row in the step that led to `step` steps done."""
        return self._curriculum.stage_at(step - 1)[1]

    def is_due(self, step: int) -> bool:
        return self._curriculum.can_end_after(step)

    def should_end(self, step: int, params: Params) -> bool:
        """Evaluates the stage; if it ends, the curriculum's later stages begin sooner."""
        stage = self._curriculum.stage_at(step - 1)
        accuracy = self._accuracy(params, stage)
        ends = self._curriculum.update(step, accuracy)
        if self._log:
            self._log.write({"step": step, "segments": stage[1], "held_out_accuracy": accuracy,
                             "stage_ends": ends})
        return ends

    def flush(self) -> None:
        if self._log:
            self._log.flush()

    def close(self) -> None:
        if self._log:
            self._log.close()
