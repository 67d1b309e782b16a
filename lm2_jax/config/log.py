"""Where the metrics of a run go beside its workdir."""

from dataclasses import dataclass

from lm2_jax.config.checks import require

TRACKERS = ("wandb", "mlflow")


@dataclass(frozen=True)
class LogConfig:
    """Trackers that get the metrics beside metrics.jsonl and TensorBoard."""

    trackers: tuple[str, ...] = ()
    """Any of wandb and mlflow (which the extras of these names install), and MODULE:NAME of a class
    of your own (lm2_jax.training.trackers.Tracker). One that fails is left out, and the run goes
    on."""
    project: str = "lm2_jax"
    """Name of the project of W&B, and of the experiment of MLflow."""

    def __post_init__(self):
        for name in self.trackers:
            module, colon, attribute = name.partition(":")
            require(name in TRACKERS or bool(module and colon and attribute.isidentifier()),
                    "log.trackers", name, "wandb, mlflow or MODULE:NAME")
