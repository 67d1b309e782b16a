"""configs/lm2_1b7.py is the paper's model: counted by shapes alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import lm2_jax as lm2

CONFIG = Path(__file__).parents[1] / "configs" / "lm2_1b7.py"


@pytest.fixture(scope="module")
def config():
    return lm2.load_config(CONFIG)


def test_parameters_are_the_papers(config):
    model = lm2.LanguageModel(config.model)
    tokens = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
    state = jax.eval_shape(lambda: lm2.init_state(config.model, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens, state)
    sizes = {path: leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    memory = sum(size for path, size in sizes.items() if "'memory'" in jax.tree_util.keystr(path))
    assert memory == pytest.approx(0.54e9, rel=0.02)
    assert sum(sizes.values()) - memory == pytest.approx(1.24e9, rel=0.02)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_state_is_one_bank_a_block(config, batch_size):
    state = jax.eval_shape(lambda: lm2.init_state(config.model, batch_size))
    leaves = jax.tree.leaves(state)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) == (
        16 * batch_size * 2048 * 2048 * 4)


def test_segment_runs_abstractly(config):
    model = lm2.LanguageModel(config.model)
    tokens = jax.ShapeDtypeStruct((2, 2048), jnp.int32)
    state = jax.eval_shape(lambda: lm2.init_state(config.model, 2))
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens, state)
    assert out.logits.shape == (2, 2048, 128_256)
    assert out.state.memory.shape == (16, 2, 2048, 2048)
    assert jax.tree.leaves(variables)[0].dtype == jnp.float32
