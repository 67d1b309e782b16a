"""Which checkpoints are kept: the newest, every n-th for ever, the best by a metric."""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from lm2_jax.checkpoint.folder import STEP_METADATA, CheckpointFolder
from lm2_jax.config.checkpoint import LOWER_IS_BETTER, CheckpointConfig

Metrics = Mapping[str, float]


def reasons(config: CheckpointConfig, steps: Sequence[int], metrics_of: Callable[[int], Metrics]
            ) -> dict[int, list[str]]:
    """Why each checkpoint is kept.

    Args:
      steps: of all checkpoints, in ascending order.
      metrics_of: returns the metrics that were measured at a step.

    Returns:
      For each step some of "newest", "every N" and "best METRIC"; an empty list for a checkpoint
      that is to be deleted.
    """
    found: dict[int, list[str]] = {step: [] for step in steps}
    for step in steps[-config.keep:]:
        found[step].append("newest")
    if config.keep_every:
        for step in steps:
            if step % config.keep_every == 0:
                found[step].append(f"every {config.keep_every}")
    if config.keep_best:
        sign = -1 if config.best_metric in LOWER_IS_BETTER else 1
        values = {step: metrics_of(step).get(config.best_metric, math.nan) for step in steps}
        measured = [step for step in steps if math.isfinite(values[step])]
        measured.sort(key=lambda step: (sign * values[step], step), reverse=True)
        for step in measured[:config.keep_best]:
            found[step].append(f"best {config.best_metric}")
    return found


def stored_metrics(folder: CheckpointFolder, step: int) -> Metrics:
    """The metrics that were stored with a checkpoint; {} if there are none."""
    try:
        text = (folder.directory / str(step) / STEP_METADATA).read_text("utf-8")
        found = json.loads(text)["custom_metadata"]["metrics"]
        return {name: float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


class Retention:
    """The same as a preservation policy of orbax.

    Args:
      metrics_of: as in `reasons`.
    """

    def __init__(self, config: CheckpointConfig, metrics_of: Callable[[int], Metrics]):
        self._config, self._metrics_of = config, metrics_of

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        """Called by orbax with the checkpoints that are there, in ascending order of steps."""
        found = reasons(self._config, [info.step for info in checkpoints], self._metrics_of)
        return [bool(found[info.step]) for info in checkpoints]
