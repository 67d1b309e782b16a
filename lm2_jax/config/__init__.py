"""The configuration: frozen dataclasses that refuse what cannot work, and their files."""

from lm2_jax.config.evaluation import EvalConfig as EvalConfig
from lm2_jax.config.evaluation import parse_length as parse_length
from lm2_jax.config.sections import CheckpointConfig as CheckpointConfig
from lm2_jax.config.sections import Config as Config
from lm2_jax.config.sections import DataConfig as DataConfig
from lm2_jax.config.sections import MemoryConfig as MemoryConfig
from lm2_jax.config.sections import MeshConfig as MeshConfig
from lm2_jax.config.sections import ModelConfig as ModelConfig
from lm2_jax.config.sections import RopeScaling as RopeScaling
from lm2_jax.config.sections import TrainConfig as TrainConfig
from lm2_jax.config.sections import with_vocab_size as with_vocab_size
