"""Memory-augmented language models (LM2) in JAX: training, checkpoints, evaluation."""

from lm2_jax import eval as eval
from lm2_jax.checkpoint.workdir import load_checkpoint as load_checkpoint
from lm2_jax.config import Config as Config
from lm2_jax.config import MemoryConfig as MemoryConfig
from lm2_jax.config import ModelConfig as ModelConfig
from lm2_jax.config.files import load_config as load_config
from lm2_jax.model.lm import LanguageModel as LanguageModel
from lm2_jax.model.lm import init_state as init_state
from lm2_jax.model.schedule import apply_segments as apply_segments
from lm2_jax.types import Output as Output
from lm2_jax.types import State as State
