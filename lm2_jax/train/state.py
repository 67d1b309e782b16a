"""The training state, born sharded."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from lm2_jax import partition
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.types import Params


@struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: int32 [], steps done.
      params: the model's variables.
      opt_state: the optimizer's.
      rng: the key that every step folds its number into (dropout).
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    rng: jax.Array


def create(model: LanguageModel, optimizer: optax.GradientTransformation, seed: int,
           mesh: Mesh) -> tuple[TrainState, TrainState]:
    """A new state and its shardings; each device makes only its own part."""
    init, key = functools.partial(_init, model, optimizer), jax.random.key(seed)
    shardings = partition.shardings(jax.eval_shape(init, key), mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(lambda key: nn.unbox(init(key)), out_shardings=shardings)(key)
    return state, shardings


def abstract(model: LanguageModel, optimizer: optax.GradientTransformation, mesh: Mesh
             ) -> TrainState:
    """Shapes, dtypes and shardings of what `create` makes."""
    return _abstract(functools.partial(_init, model, optimizer), mesh)


def abstract_params(model: LanguageModel, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of the model's variables."""
    return _abstract(functools.partial(_init_params, model), mesh)


def _init(model: LanguageModel, optimizer: optax.GradientTransformation, key: jax.Array
          ) -> TrainState:
    params_key, rng = jax.random.split(key)
    params = _init_params(model, params_key)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params,
                      opt_state=optimizer.init(params), rng=rng)


def _init_params(model: LanguageModel, key: jax.Array) -> Params:
    return model.init(key, jnp.zeros((1, 1), jnp.int32), init_state(model.config, 1))


def _abstract(init: Callable, mesh: Mesh):
    boxed = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                        nn.unbox(boxed), partition.shardings(boxed, mesh))
