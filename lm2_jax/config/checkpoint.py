"""Checkpoints: how often, how many, and what happens when a save fails."""

from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of

ON_FAILURE = ("stop", "continue")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a training run."""

    every_steps: int = 500
    """Steps between checkpoints."""
    keep: int = 3
    """Number of newest checkpoints that are kept."""
    asynchronous: bool = True
    """Whether checkpoints are written while training goes on."""
    on_failure: str = "stop"
    """When a save fails: stop the run, or continue without that checkpoint."""

    def __post_init__(self):
        at_least(self, "checkpoint", 1, "every_steps", "keep")
        one_of(self, "checkpoint", "on_failure", ON_FAILURE)
