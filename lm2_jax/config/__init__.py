"""The configuration: frozen dataclasses that refuse impossible values.

Every key is a field, and the string below it is its documentation, in configs/README.md and in
`--help` (`lm2_jax.config.reference`). Files and overrides are read by `lm2_jax.config.files`.
"""

import dataclasses
from dataclasses import dataclass, field

from lm2_jax.config.checkpoint import CheckpointConfig as CheckpointConfig
from lm2_jax.config.checks import require as _require
from lm2_jax.config.data import DataConfig as DataConfig
from lm2_jax.config.evaluation import EvalConfig as EvalConfig
from lm2_jax.config.evaluation import parse_length as parse_length
from lm2_jax.config.log import LogConfig as LogConfig
from lm2_jax.config.mesh import MeshConfig as MeshConfig
from lm2_jax.config.model import MemoryConfig as MemoryConfig
from lm2_jax.config.model import ModelConfig as ModelConfig
from lm2_jax.config.model import RopeScaling as RopeScaling
from lm2_jax.config.training import TrainConfig as TrainConfig


@dataclass(frozen=True)
class Config:
    """The whole configuration of a run."""

    seed: int = 0
    """Seed of the parameters, the data and dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self):
        _require(0 <= self.seed < 2**31, "seed", self.seed, "in [0, 2**31)")
        _require(not self.train.advance_accuracy or self.data.source == "babilong",
                 "train.advance_accuracy", self.train.advance_accuracy,
                 "0 where data.source is corpus")
        for rows in self.batch_sizes():
            _require(rows % self.train.accumulate_steps == 0, "train.accumulate_steps",
                     self.train.accumulate_steps, f"a divisor of every batch size, also {rows}")
        best = self.checkpoint.best_metric
        _require(not self.checkpoint.keep_best or best not in ("held_out_loss", "exact_match")
                 or bool(self.train.eval_every_steps), "train.eval_every_steps", 0,
                 f"above 0, so that checkpoint.best_metric={best} is measured")
        chunk, T = self.train.loss_chunk_tokens, self.model.segment_length
        _require(not chunk or T % chunk == 0, "train.loss_chunk_tokens", chunk,
                 f"0 or a divisor of model.segment_length = {T}")

        self._check_stages()

    def _check_stages(self) -> None:
        stages, model = self.mesh.stage, self.model
        if stages == 1:
            return
        _require(model.schedule != "sequential" and not model.carries_tokens, "mesh.stage", stages,
                 "1 for a model that is read sequentially (model.schedule=sequential, and rmt)")
        for count in model.stacks:
            _require(count % stages == 0, "mesh.stage", stages,
                     f"a divisor of {count}, the number of blocks with (or without) a memory")

    def batch_sizes(self) -> list[int]:
        """Rows of the global batch in each stage of the curriculum."""
        return [self.data.rows_at(stage[0], self.train.batch_size)
                for stage in self.data.curriculum]


def with_vocab_size(config: Config, vocab_size: int, multiple: int = 1) -> Config:
    """Returns the config with the tokenizer's vocabulary size, rounded up to a multiple.

    A size that is configured is kept, and must be as large.
    """
    if config.model.vocab_size:
        _require(config.model.vocab_size >= vocab_size, "model.vocab_size",
                 config.model.vocab_size, f"0 or at least the tokenizer's {vocab_size}")
        return config
    padded = -(-vocab_size // multiple) * multiple
    model = dataclasses.replace(config.model, vocab_size=padded)
    return dataclasses.replace(config, model=model)
