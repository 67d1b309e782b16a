"""Training without a workdir, for notebooks: the state, the step and the loss of a config."""

from collections.abc import Callable, Sequence

import jax

from lm2_jax.config import Config
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import meshes
from lm2_jax.training import optimizer, step
from lm2_jax.training import state as train_state
from lm2_jax.training.loss import loss_sums
from lm2_jax.training.state import TrainState
from lm2_jax.types import Batch, Params


def create_train_state(config: Config, devices: Sequence[jax.Device] | None = None) -> TrainState:
    """Returns the training state before the first step, laid out over the devices.

    Args:
      config: with `model.vocab_size`, as that of `lm2.batches(config)` has.
      devices: None = all.

    Raises:
      UserError: if the vocabulary size is unknown or the batches do not divide over the devices.
    """
    return train_state.create(*_parts(config, devices))[0]


def make_train_step(config: Config, devices: Sequence[jax.Device] | None = None
                    ) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
    """Returns the compiled training step: (state, batch) -> (state, metrics).

    The state that is passed in is donated: only the returned one may be used afterwards. A batch
    has all its rows as NumPy or JAX arrays.

    Args:
      devices: those of the state; None = all.

    Example:

        data = lm2.batches(lm2.load_config("tiny"))
        state = lm2.create_train_state(data.config)
        train_step = lm2.make_train_step(data.config)
        for batch in data:
            state, metrics = train_step(state, batch)
    """
    model, tx, _, mesh = _parts(config, devices)
    abstract = train_state.abstract(model, tx, mesh)
    compiled = step.make_train_step(model, tx, config.train, mesh,
                                    jax.tree.map(lambda leaf: leaf.sharding, abstract))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        with jax.set_mesh(mesh):
            return compiled(state, batch)

    return train_step


def loss(config: Config, params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
    """Returns the mean cross-entropy of a batch in nats, weighted by `batch.loss_weight_BL`.

    Pure and differentiable in `params`.

    Args:
      params: the model's variables, as `lm2.init(config.model, key)` or a training state has them.
      key: for dropout; None = no dropout.
    """
    t = config.train
    sums = loss_sums(LanguageModel(config.model), params, batch,
                     jax.random.key(0) if key is None else key, deterministic=key is None,
                     bptt_segments=t.bptt_segments, remat_segments=t.remat_segments,
                     chunk_tokens=t.loss_chunk_tokens,
                     window_from_segments=t.window_from_segments)
    return sums.loss / jax.numpy.maximum(sums.weight, 1e-6)


def _parts(config: Config, devices: Sequence[jax.Device] | None) -> tuple:
    if not config.model.vocab_size:
        raise UserError("model.vocab_size is 0; take the config of lm2.batches(config), which has "
                        "the tokenizer's, or set it")
    return (LanguageModel(config.model), optimizer.make(config.train), config.seed,
            meshes.for_training(config, devices, evaluates=False))
