"""Moments of the optimizer in bfloat16: half the memory, right on average."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import CONFIG, MODEL, furthest, one_device, plain, train

from lm2_jax.config import TrainConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def moments(opt_state):
    """Leaves of the first and of the second moment."""
    return jax.tree.leaves(optax.tree.get_all_with_path(opt_state, "mu")[0][1]), jax.tree.leaves(
        optax.tree.get_all_with_path(opt_state, "nu")[0][1])


def test_moments_in_bfloat16_take_half_the_memory_and_hardly_change_the_training():
    abstract = [moments(train_state.abstract(
        LanguageModel(MODEL), optimizer.make(dataclasses.replace(CONFIG, moments_dtype=dtype)),
        one_device()).opt_state) for dtype in ("float32", "bfloat16")]
    wide, narrow = (sum(leaf.size * leaf.dtype.itemsize for leaf in sum(leaves, []))
                    for leaves in abstract)
    assert wide == 2 * narrow

    config = dataclasses.replace(CONFIG, moments_dtype="bfloat16")
    found = train(config)
    kept = {leaf.dtype.name for leaf in sum(moments(found.state.opt_state), [])}
    assert kept == {"bfloat16"}
    assert 1e-6 < furthest(found.after, plain().after) < 0.02
    jax.tree.map(np.testing.assert_array_equal, found.after, train(config).after)


def test_a_number_is_rounded_up_or_down_and_right_on_average():
    x_N = jnp.linspace(1.001, 1.0011, 4096, dtype=jnp.float32)
    for step in range(3):
        rounded_N = np.asarray(optimizer._rounded(x_N, jnp.int32(step)), np.float64)
        assert set(rounded_N) == {1.0, 1.0078125}
        assert abs(rounded_N.mean() - 1.00105) < 2e-4
    exact_N = jnp.array([0.0, -0.0, 1.5, -3.0, 2.0**-120])
    np.testing.assert_array_equal(optimizer._rounded(exact_N, jnp.int32(7)), exact_N)


def test_a_second_moment_follows_small_changes():
    """(1 - beta2) of a gradient near the moment is less than bfloat16 resolves."""
    tx = optimizer.make(TrainConfig(moments_dtype="bfloat16", beta2=0.999, clip_norm=1e9))
    params = {"params": {"scale": jnp.zeros(64)}}
    grads = {"params": {"scale": jnp.linspace(0.99, 1.01, 64)}}
    update = jax.jit(lambda state: tx.update(grads, state, params)[1])
    state = tx.init(params)
    for _ in range(500):
        state = update(state)
    nu = np.asarray(moments(state)[1][0], np.float64)
    assert abs(nu.mean() / (1 - 0.999**500) - 1) < 0.05
