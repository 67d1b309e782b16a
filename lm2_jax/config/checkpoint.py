"""Checkpoints: how often, how many, and what happens when a save fails."""

from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of

ON_FAILURE = ("stop", "continue")
LOWER_IS_BETTER = ("loss", "held_out_loss")
METRICS = (*LOWER_IS_BETTER, "answer_accuracy", "exact_match")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a training run."""

    every_steps: int = 500
    """Steps between checkpoints."""
    every_minutes: float = 0.0
    """Minutes after the last checkpoint until another one is saved, beside those of every_steps; 0
    turns this off."""
    keep: int = 3
    """Number of newest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of this are kept for ever; 0 turns this off."""
    keep_best: int = 0
    """Number of checkpoints with the best value of best_metric that are kept beside the newest."""
    best_metric: str = "loss"
    """Metric of keep_best: loss (of the batch of the step), held_out_loss, answer_accuracy or
    exact_match. Checkpoints of steps at which it was not measured are not among the best."""
    asynchronous: bool = True
    """Whether checkpoints are written while training goes on."""
    on_failure: str = "stop"
    """When a save fails: stop the run, or continue without that checkpoint."""

    def __post_init__(self):
        at_least(self, "checkpoint", 1, "every_steps", "keep")
        at_least(self, "checkpoint", 0, "every_minutes", "keep_every", "keep_best")
        one_of(self, "checkpoint", "on_failure", ON_FAILURE)
        one_of(self, "checkpoint", "best_metric", METRICS)
