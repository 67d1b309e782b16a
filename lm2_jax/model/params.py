"""The model's variables: initialised, or as abstract arrays."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.config import ModelConfig
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.types import Params


@functools.partial(jax.jit, static_argnums=0)
def init(config: ModelConfig, key: jax.Array) -> Params:
    """Returns new variables of `LanguageModel(config)`: nested dicts of float32 arrays.

    Example:

        variables = lm2.init(cfg, jax.random.key(0))
        out = lm2.LanguageModel(cfg).apply(variables, tokens_BT, lm2.init_state(cfg, B))
    """
    return nn.unbox(init_params(LanguageModel(config), key))


def init_params(model: LanguageModel, key: jax.Array) -> Params:
    """Returns new variables, each boxed (`nn.LogicallyPartitioned`) with its logical axis names."""
    return model.init(key, jnp.zeros((1, 1), jnp.int32), init_state(model.config, 1))


def abstract_params(model: LanguageModel, mesh: partition.AnyMesh) -> Params:
    """Returns the variables of the model as `jax.ShapeDtypeStruct`s with shardings."""
    return abstract_tree(functools.partial(init_params, model), mesh)


def abstract_tree(init: Callable, mesh: partition.AnyMesh):
    """Returns the result of `init(key)` as unboxed `jax.ShapeDtypeStruct`s with shardings.

    Args:
      init: (key) -> tree of arrays, boxed with logical axis names or not.
    """
    boxed = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                        nn.unbox(boxed), partition.shardings(boxed, mesh))
