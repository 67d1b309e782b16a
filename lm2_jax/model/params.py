"""The model's variables: initialised, as abstract arrays, and their digest."""

import functools
import hashlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.config import ModelConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
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


def weights_digest(params: Params) -> str:
    """SHA-256 (hex) of names, shapes, dtypes and checksums of all arrays.

    The checksums are computed on the devices in integers, so that they do not depend on how the
    arrays are laid out over them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    facts = [(jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), int(checksum))
             for (path, leaf), checksum in zip(leaves, sums, strict=True)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    """uint32 of each array: the sum of a hash of each entry's bits and index."""
    def one(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
        index = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        mixed = (bits ^ (index * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE35)
        return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]
