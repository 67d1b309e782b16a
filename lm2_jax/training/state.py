"""The training state, created in its shardings."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from lm2_jax import partition
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_tree, init_params
from lm2_jax.training import optimizer as optimizers
from lm2_jax.types import Params


@struct.dataclass
class TrainState:
    """Everything that a training step changes.

    Attributes:
      step: int32 [], steps done.
      params: the model's variables.
      opt_state: the optimizer's.
      rng: key for dropout; each step folds its number into it.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    rng: jax.Array


def create(model: LanguageModel, optimizer: optax.GradientTransformation, seed: int,
           mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Returns a new state and its shardings; each device creates only its own part."""
    init, key = functools.partial(_init, model, optimizer), jax.random.key(seed)
    shardings = partition.shardings(jax.eval_shape(init, key), mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(lambda key: nn.unbox(init(key)), out_shardings=shardings)(key)
    return state, shardings


def abstract(model: LanguageModel, optimizer: optax.GradientTransformation,
             mesh: partition.AnyMesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of the state that `create` returns."""
    return abstract_tree(functools.partial(_init, model, optimizer), mesh)


def without_moments(new: TrainState, params: Params, step: int) -> TrainState:
    """Returns the state of a run after `step` steps of which only the parameters are left.

    Batches, learning rate and dropout go on as in that run; the optimizer's moments begin anew.

    Args:
      new: from `create`, with the run's seed.
      params: the run's variables.
    """
    return dataclasses.replace(new, step=jnp.int32(step), params=params,
                               opt_state=optimizers.at_step(new.opt_state, step))


def _init(model: LanguageModel, optimizer: optax.GradientTransformation, key: jax.Array
          ) -> TrainState:
    params_key, rng = jax.random.split(key)
    params = init_params(model, params_key)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params,
                      opt_state=optimizer.init(params), rng=rng)
