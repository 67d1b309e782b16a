"""The mesh that is inferred for a config, and the micro-batches on it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from training import CONFIG, B, furthest, plain, train

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.config import TrainConfig
from lm2_jax.runtime import meshes
from lm2_jax.runtime.meshes import micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FREE = {"data": -1, "fsdp": -1, "tensor": -1}
ROWS, HEADS = (256, 128, 64, 32), (32, 8, 8)


def paper(overrides=None):
    return lm2.load_config(Path(__file__).parents[1] / "configs" / "lm2_1b7.py", overrides)


@pytest.mark.parametrize("shape,devices,sizes", [
    (FREE, 1, (1, 1, 1)), (FREE, 8, (1, 8, 1)), (FREE, 16, (1, 16, 1)), (FREE, 32, (1, 32, 1)),
    (FREE, 64, (1, 32, 2)), (FREE, 256, (1, 32, 8)), (FREE | {"data": 2}, 64, (2, 16, 2)),
    (FREE | {"tensor": 4}, 64, (1, 16, 4)), (FREE | {"fsdp": 4}, 64, (8, 4, 2)),
    (FREE | {"fsdp": 1}, 16, (16, 1, 1))], ids=str)
def test_rows_are_split_as_far_as_they_go_and_heads_after_them(shape, devices, sizes):
    found = partition.mesh_sizes(shape, devices, ROWS, HEADS)
    assert found == dict(zip(partition.MESH_AXES, sizes, strict=True))


def test_a_mesh_that_is_configured_is_left_alone():
    for shape in ({"data": -1, "fsdp": 1, "tensor": 1}, {"data": 3, "fsdp": 7}, {}):
        assert partition.mesh_sizes(shape, 8, (5,), (5,)) == shape


@pytest.mark.parametrize("shape,devices", [(FREE, 512), (FREE, 48), (FREE | {"tensor": 3}, 6),
                                           (FREE | {"data": 64}, 64)], ids=str)
def test_without_a_mesh_that_fits_one_line_says_what_must_divide(shape, devices):
    with pytest.raises(ValueError, match=f"no mesh .* for {devices} devices") as caught:
        partition.mesh_sizes(shape, devices, ROWS, HEADS)
    said = str(caught.value)
    assert "(32, 64, 128, 256)" in said and "(8, 32)" in said and "\n" not in said


def test_the_papers_config_leaves_the_mesh_to_be_inferred():
    for devices, sizes in ((16, (1, 16, 1)), (64, (1, 32, 2)), (256, (1, 32, 8))):
        assert tuple(meshes.for_training(paper(), devices).shape.values()) == sizes
        assert tuple(meshes.for_evaluation(paper(), devices).shape.values()) == sizes


@pytest.mark.parametrize("overrides,devices,message", [
    ({"eval.batch_size": "24"}, 256, "no mesh .* for 256 devices"),
    ({"eval.batch_size": "24", "mesh.fsdp": "16", "mesh.tensor": "1"}, 16,
     "eval.batch_size is 24.* take a multiple of 16"),
    ({"mesh.fsdp": "64", "mesh.tensor": "1"}, 64, "batch of 32 rows does not divide over the 64"),
    ({"train.rows_per_device": "0", "train.accumulate_steps": "4", "mesh.fsdp": "16",
      "mesh.tensor": "1"}, 16, "batch of 32 rows in 4 micro-batches .* multiple of 64"),
], ids=str)
def test_rows_that_do_not_divide_are_refused_in_one_line(overrides, devices, message):
    with pytest.raises(ValueError, match=message) as caught:
        meshes.for_training(paper(overrides), devices)
    assert "\n" not in str(caught.value)


def test_micro_batches_are_counted_in_one_way():
    with pytest.raises(ValueError, match="train.accumulate_steps is 2; it must be 1 where "
                       "train.rows_per_device is set"):
        TrainConfig(accumulate_steps=2, rows_per_device=1)


@pytest.mark.parametrize("config,rows,parts", [
    ({}, 32, 1), (dict(accumulate_steps=2), 32, 2), (dict(rows_per_device=1), 32, 8),
    (dict(rows_per_device=2), 32, 4), (dict(rows_per_device=8), 32, 1),
    (dict(rows_per_device=99), 32, 1), (dict(rows_per_device=1), 4, 1),
    (dict(rows_per_device=3), 24, 2), (dict(rows_per_device=3), 28, None),
    (dict(accumulate_steps=16), 32, None), ({}, 6, None)], ids=str)
def test_micro_batches_have_so_many_rows_of_each_device(config, rows, parts):
    mesh = partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    if parts is None:
        with pytest.raises(ValueError, match=f"a batch of {rows} rows.* does not divide"):
            micro_batches(TrainConfig(**config), rows, mesh)
    else:
        assert micro_batches(TrainConfig(**config), rows, mesh) == parts


@pytest.mark.slow
def test_rows_of_a_device_one_at_a_time_give_the_same_steps():
    mesh = partition.make_mesh({"data": 1, "fsdp": 2}, jax.devices()[:2])
    assert B // 2 == 4
    run = train(dataclasses.replace(CONFIG, rows_per_device=1), mesh=mesh)
    assert furthest(run.after, plain().after) < 1e-5
    for values, same in zip(run.metrics, plain().metrics, strict=True):
        np.testing.assert_allclose(values["row_loss"], same["row_loss"], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU chip."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0


def test_axes_that_split_those_of_the_torus():
    """8 x 8 chips as 32 x 2: the two of a pair are neighbours."""
    chips = [Chip(i, (i % 8, i // 8, 0)) for i in range(64)]
    mesh = partition.make_mesh({"data": 1, "fsdp": 32, "tensor": 2}, chips)
    assert mesh.devices.shape == (1, 32, 2) and set(mesh.devices.flat) == set(chips)
    for one, other in mesh.devices[0]:
        assert sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) == 1


def test_an_abstract_mesh_has_no_devices():
    mesh = partition.make_mesh({"data": 2, "fsdp": -1}, 8)
    assert isinstance(mesh, jax.sharding.AbstractMesh)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    with partition.use(mesh):
        assert jax.sharding.get_abstract_mesh() == mesh
