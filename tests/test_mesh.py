"""Training on a mesh of eight virtual devices: equal to one device, split as the table says."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from training import MODEL, furthest, plain, train

from lm2_jax import partition
from lm2_jax.config import MemoryConfig

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HERE = Path(__file__).parent
SHAPES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2)]
KINDS = {"lm2": MODEL.memory, "rmt": MemoryConfig(kind="rmt", num_slots=3, num_layers=1),
         "llama": MemoryConfig()}
ARMT = MemoryConfig(kind="armt", num_slots=3, num_layers=1, key_dim=4)


def mesh_of(sizes):
    return partition.make_mesh(dict(zip(partition.MESH_AXES, sizes, strict=True)))


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_are_those_of_one_device(kind, sizes):
    check_three_steps(KINDS[kind], sizes)


def test_three_steps_of_armt_are_those_of_one_device():
    check_three_steps(ARMT, (2, 2, 2))


def check_three_steps(memory, sizes):
    model = dataclasses.replace(MODEL, memory=memory)
    run, alone = train(model=model, mesh=mesh_of(sizes)), plain(model=model)
    assert furthest(run.before, alone.before) == 0
    assert furthest(run.after, alone.after) < 1e-5
    np.testing.assert_allclose([values["loss"] for values in run.metrics],
                               [values["loss"] for values in alone.metrics], rtol=1e-6)
    stack = "memory_blocks" if "memory_blocks" in run.state.params["params"] else "blocks"
    kernel = run.state.params["params"][stack]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size * sizes[1] * sizes[2] == kernel.size
    for leaf, moment in zip(jax.tree.leaves(run.state.params),
                            jax.tree.leaves(run.state.opt_state[1][0].mu), strict=True):
        assert leaf.sharding == moment.sharding
