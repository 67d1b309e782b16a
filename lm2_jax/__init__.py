"""Memory-augmented language models (LM2) in JAX: training, checkpoints, evaluation."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm2_jax import eval as eval
    from lm2_jax.checkpoint.workdir import Run as Run
    from lm2_jax.checkpoint.workdir import load as load
    from lm2_jax.checkpoint.workdir import load_checkpoint as load_checkpoint
    from lm2_jax.commands.analyze import show as analyze  # noqa: F401
    from lm2_jax.commands.evaluate import evaluate as evaluate
    from lm2_jax.commands.gates import show as gates  # noqa: F401
    from lm2_jax.commands.train import train as train
    from lm2_jax.config import Config as Config
    from lm2_jax.config import MemoryConfig as MemoryConfig
    from lm2_jax.config import ModelConfig as ModelConfig
    from lm2_jax.config.files import load_config as load_config
    from lm2_jax.data.sources import batches as batches
    from lm2_jax.generation.api import generate as generate
    from lm2_jax.generation.api import read as read
    from lm2_jax.generation.saved import read_state as read_state
    from lm2_jax.generation.states import ReadState as ReadState
    from lm2_jax.model.lm import LanguageModel as LanguageModel
    from lm2_jax.model.params import init as init
    from lm2_jax.model.schedule import apply_segments as apply_segments
    from lm2_jax.model.state import init_state as init_state
    from lm2_jax.training.functional import create_train_state as create_train_state
    from lm2_jax.training.functional import loss as loss
    from lm2_jax.training.functional import make_train_step as make_train_step
    from lm2_jax.types import Batch as Batch
    from lm2_jax.types import Output as Output
    from lm2_jax.types import State as State

# The public names and where they are defined. They are imported when they are first used, so that
# importing the package loads no JAX and `lm2 help` answers at once.
_MODULES = {
    "Batch": "types", "Config": "config", "LanguageModel": "model.lm", "MemoryConfig": "config",
    "ModelConfig": "config", "Output": "types", "ReadState": "generation.states",
    "Run": "checkpoint.workdir", "State": "types",
    "analyze": "commands.analyze", "apply_segments": "model.schedule", "batches": "data.sources",
    "create_train_state": "training.functional", "evaluate": "commands.evaluate",
    "gates": "commands.gates", "generate": "generation.api", "init": "model.params",
    "init_state": "model.state", "load": "checkpoint.workdir",
    "load_checkpoint": "checkpoint.workdir", "load_config": "config.files",
    "loss": "training.functional", "make_train_step": "training.functional",
    "read": "generation.api", "read_state": "generation.saved", "train": "commands.train",
}
_DEFINED_AS = {"analyze": "show", "gates": "show"}
__all__ = ["eval", *_MODULES]  # noqa: F822 (they are resolved by __getattr__)


def __getattr__(name: str):
    if name == "eval":
        return importlib.import_module("lm2_jax.eval")
    if name not in _MODULES:
        raise AttributeError(f"module 'lm2_jax' has no attribute {name!r}")
    module = importlib.import_module("lm2_jax." + _MODULES[name])
    value = globals()[name] = getattr(module, _DEFINED_AS.get(name, name))
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
