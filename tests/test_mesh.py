"""Training on a mesh of eight virtual devices: equal to one device, split as the table says."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from collectives_of_step import SEPARATOR
from training import CONFIG, MODEL, furthest, plain, train

from lm2_jax import partition
from lm2_jax.config import MemoryConfig
from lm2_jax.config.files import load_config
from lm2_jax.model.lm import LanguageModel
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HERE = Path(__file__).parent
SHAPES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 4, 2), (2, 2, 2)]
QUICK = [(kind, (2, 2, 2)) for kind in ("lm2", "rmt")]
KINDS = {"lm2": MODEL.memory, "rmt": MemoryConfig(kind="rmt", num_slots=3, num_layers=1),
         "paper": dataclasses.replace(MODEL.memory, write="paper"), "llama": MemoryConfig()}
ONCE = {"armt": MemoryConfig(kind="armt", num_slots=3, num_layers=1, key_dim=4),
        "delta": MemoryConfig(kind="delta", num_heads=2, num_layers=1, key_dim=4)}


def mesh_of(sizes):
    return partition.make_mesh(dict(zip(partition.MESH_AXES, sizes, strict=True)))


@pytest.mark.parametrize("kind,sizes", [
    pytest.param(kind, sizes, id=f"{kind}-{sizes}",
                 marks=() if (kind, sizes) in QUICK else pytest.mark.slow)
    for kind in KINDS for sizes in SHAPES])
def test_three_steps_are_those_of_one_device(kind, sizes):
    check_three_steps(KINDS[kind], sizes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONCE)
def test_three_steps_on_a_cube_are_those_of_one_device(kind):
    check_three_steps(ONCE[kind], (2, 2, 2))


def check_three_steps(memory, sizes):
    model = dataclasses.replace(MODEL, memory=memory)
    run, alone = train(model=model, mesh=mesh_of(sizes)), plain(model=model)
    assert furthest(run.after, alone.after) < 1e-5
    np.testing.assert_allclose([values["loss"] for values in run.metrics],
                               [values["loss"] for values in alone.metrics], rtol=1e-6)
    stack = "memory_blocks" if "memory_blocks" in run.state.params["params"] else "blocks"
    kernel = run.state.params["params"][stack]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size * sizes[1] * sizes[2] == kernel.size
    for leaf, moment in zip(jax.tree.leaves(run.state.params),
                            jax.tree.leaves(run.state.opt_state[1][0].mu), strict=True):
        assert leaf.sharding == moment.sharding


def test_a_state_is_born_on_a_mesh_as_on_one_device():
    model, adam = LanguageModel(MODEL), optimizer.make(CONFIG)
    born, shardings = train_state.create(model, adam, 0, mesh_of((2, 2, 2)))
    assert furthest(born.params, plain().before) == 0
    wanted = train_state.abstract(model, adam, mesh_of((2, 2, 2)))
    for leaf, abstract in zip(jax.tree.leaves(born), jax.tree.leaves(wanted), strict=True):
        assert (leaf.shape, leaf.dtype) == (abstract.shape, abstract.dtype)
        assert leaf.sharding == abstract.sharding


# The paper's model, by shapes alone.

@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 4, 1), (1, 4, 2), (2, 2, 2)], ids=str)
def test_nothing_large_is_whole_on_a_device(sizes):
    """Parameters and moments of more than a megabyte lie in parts over fsdp, and over tensor."""
    config = load_config(HERE.parent / "configs" / "lm2_1b7.py").model
    state = train_state.abstract(LanguageModel(config), optimizer.make(CONFIG), mesh_of(sizes))
    large = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
             if leaf.size * leaf.dtype.itemsize > 2**20]
    assert len(large) > 3 * 15
    for path, leaf in large:
        part = np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert part * sizes[1] * sizes[2] == leaf.size, jax.tree_util.keystr(path)


# What the compiled step does.

@pytest.fixture(scope="module")
def step_on_a_cube():
    """(HLO, what the compiler wrote to stderr) of the step on 2 x 2 x 2 devices, from a process
    of its own, since the compiler writes past Python."""
    done = subprocess.run([sys.executable, str(HERE / "tools" / "collectives_of_step.py")],
                          capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
                                            "JAX_ENABLE_COMPILATION_CACHE": "false"})
    return json.loads(done.stdout), done.stderr


def test_nothing_is_made_whole_to_be_split_again(step_on_a_cube):
    warning = "nvoluntary full rematerialization"
    of_waste, of_step = step_on_a_cube[1].split(SEPARATOR)
    assert warning in of_waste
    assert warning not in of_step


def test_collectives_are_those_on_record(step_on_a_cube):
    """To write the record anew: python tests/tools/collectives_of_step.py --write"""
    found, _ = step_on_a_cube
    version = ".".join(jax.__version__.split(".")[:2])
    record = HERE / "collectives" / f"jax_{version}.json"
    if not record.exists():
        pytest.skip(f"no record of the collectives for jax {version}")
    assert found == json.loads(record.read_text("utf-8"))
