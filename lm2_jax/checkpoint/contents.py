"""What a checkpoint stores: the dtype and shape of each array."""

from typing import Any

import jax
import numpy as np


def describe(tree: Any) -> dict[str, str]:
    """Dtype and shape of each array; of a random key those of its data."""
    def one(leaf) -> str:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"

    return {jax.tree_util.keystr(path, simple=True, separator="/"): one(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def differences(stored: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line for each array that is not the same in both."""
    return [f"{name} is {stored.get(name, 'not')} there, {expected.get(name, 'not')} here"
            for name in sorted(stored.keys() | expected) if stored.get(name) != expected.get(name)]
