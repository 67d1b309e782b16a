"""configs/lm2_1b7.py is the paper's model: counted by shapes alone."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.errors import UserError
from lm2_jax.report.flops import matrix_flops
from lm2_jax.report.programs import training_step
from lm2_jax.runtime import meshes

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


@pytest.mark.slow
def test_a_training_step_computes_the_forward_pass_twice(config):
    """Once for the loss and once more for the gradient, which is a third of 3 + 1 passes.

    It was computed three times when blocks and segments both recomputed all of it.
    """
    def flops(**changes):
        mesh = meshes.for_training(config, 16)
        model = dataclasses.replace(config.model, remat=changes.pop("remat", config.model.remat))
        train = dataclasses.replace(config.train, **changes)
        with partition.use(mesh):
            return matrix_flops(training_step(model, train, mesh, rows=32, segments=8).jaxpr)

    nothing_recomputed = flops(remat="none", remat_segments=False)
    assert flops() < 1.3 * nothing_recomputed
    assert flops() == flops(remat_segments=False)


def test_large_slices_have_eight_times_the_rows(config):
    large = lm2.load_config(f"{CONFIG}:4M")
    tokens = {segments * rows * 2048 for _, segments, rows in large.data.curriculum}
    assert tokens == {2**22} and large.batch_sizes() == [8 * n for n in config.batch_sizes()]
    assert large.model == config.model
    for devices in (64, 256):  # one row or more for each, and no heads split
        mesh = meshes.for_training(large, devices)
        assert dict(mesh.shape) == {"data": 1, "fsdp": devices, "tensor": 1}
    with pytest.raises(UserError, match="no batch of 9M tokens; there are 0.5M, 4M"):
        lm2.load_config(f"{CONFIG}:9M")


def test_pretraining_has_the_model_in_shorter_segments_on_256_and_64_devices(config):
    pretrain = lm2.load_config(CONFIG.with_name("pretrain_smollm.py"))
    changed = {"segment_length", "rope_scaling"}
    for field in dataclasses.fields(config.model):
        same = getattr(pretrain.model, field.name) == getattr(config.model, field.name)
        assert same or field.name in changed, field.name
    assert pretrain.model.segment_length == 512
    assert {s * rows * 512 for _, s, rows in pretrain.data.curriculum} == {2**20}
    for devices in (256, 64):
        assert dict(meshes.for_training(pretrain, devices).shape) == {
            "data": 1, "fsdp": devices, "tensor": 1}
