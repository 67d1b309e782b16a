"""Parameters that `train.trainable` leaves out: no gradient, no moments, not a bit changed."""

import dataclasses

import jax
import numpy as np
import pytest
from training import CONFIG, MODEL, batch, first_state, train

from lm2_jax.errors import UserError
from lm2_jax.training import optimizer

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ALL = dataclasses.replace(CONFIG, clip_norm=1e9)  # clipping depends on what else is trained
MEMORY = dataclasses.replace(ALL, trainable=("*/memory/*",))


def is_memory(path):
    return "memory" in [key.key for key in path]


def test_only_what_matches_changes_and_has_moments():
    run = train(MEMORY)

    def check(path, before, after):
        assert np.array_equal(before, after) != is_memory(path), path

    jax.tree_util.tree_map_with_path(check, run.before, run.after)
    adam, = [state for state in jax.tree.leaves(
        run.state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(state, "mu")]
    for moments in (adam.mu, adam.nu):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(moments)]
        assert paths and all(map(is_memory, paths))
    memory = [leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(run.before)
              if is_memory(path)]
    held = sum(leaf.size for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim)
    assert held == 2 * sum(memory)


def test_the_first_step_is_that_of_training_everything():
    some, all_of_it = (train(config, batches=[batch(0)]) for config in (MEMORY, ALL))
    assert some.metrics[0]["loss"] == all_of_it.metrics[0]["loss"]
    assert some.metrics[0]["grad_norm"] < all_of_it.metrics[0]["grad_norm"]

    def check(path, one, other):
        if is_memory(path):
            np.testing.assert_allclose(one, other, rtol=0, atol=CONFIG.learning_rate / 100)

    jax.tree_util.tree_map_with_path(check, some.after, all_of_it.after)


def test_split_and_merge_and_their_summary():
    params = first_state(MODEL).params
    for patterns in ((), ("*/memory/*",), ("*norm/scale", "embedding")):
        trained, rest = optimizer.split(params, patterns)
        merged = optimizer.merge(trained, rest)
        assert jax.tree.structure(merged) == jax.tree.structure(params)
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (merged, params)), strict=True))
        assert bool(jax.tree.leaves(rest)) == bool(patterns)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    norms = dataclasses.replace(CONFIG, trainable=("final_norm/scale",))
    assert optimizer.summary(norms, params).startswith(
        f"training {MODEL.embed_dim:,} of {total:,} parameters")


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match=r"no parameter .*'\*/memori/\*'.*memory_blocks/memory/"):
        optimizer.split(first_state(MODEL).params, ("*/memory/*", "*/memori/*"))
