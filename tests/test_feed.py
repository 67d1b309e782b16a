"""Batches onto the devices of a mesh, on eight virtual ones."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lm2_jax import partition
from lm2_jax.data import feed
from lm2_jax.types import Batch

SHAPES = [(8, 1, 1), (2, 2, 2), (1, 1, 8), (4, 2, 1)]


def batch_of(rows, seed=0):
    """Every row has numbers of its own."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, 2**31, (2, rows, 6)).astype(np.int32)
    return Batch(tokens_BL=tokens, targets_BL=targets, loss_weight_BL=rng.random((rows, 6)),
                 answer_BL=rng.random((rows, 6)) < 0.5, valid_BL=rng.random((rows, 6)) < 0.5,
                 reset_BS=rng.random((rows, 2)) < 0.5)


def sharding_of(shape, devices=None):
    sizes = dict(zip(partition.MESH_AXES, shape, strict=True))
    return partition.named(partition.make_mesh(sizes, devices), "act_batch", None)


def fields(batch):
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


def rows_of(batch, rows):
    return Batch(*(array[list(rows)] for array in fields(batch)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["in order", "backwards"])
def test_the_global_batch_is_the_batch(shape, order):
    sharding, batch = sharding_of(shape), batch_of(16)
    rows = feed.local_rows(sharding, 16)
    assert rows == tuple(range(16))
    rows = rows[::-1] if order == "backwards" else rows
    whole = feed.to_devices(rows_of(batch, rows), rows, 16, sharding)
    for ours, expected in zip(fields(whole), fields(batch), strict=True):
        assert isinstance(ours, jax.Array) and ours.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_array_equal(ours, expected.astype(ours.dtype))
        assert len(ours.addressable_shards) == 8
        for shard in ours.addressable_shards:
            assert shard.data.shape[0] == 16 // (shape[0] * shape[1])
            np.testing.assert_array_equal(shard.data, expected[shard.index].astype(ours.dtype))


def test_types_are_those_of_the_batch():
    whole = feed.to_devices(batch_of(8), tuple(range(8)), 8, sharding_of((8, 1, 1)))
    assert [array.dtype.name for array in fields(whole)] == [
        "int32", "int32", "float32", "bool", "bool", "bool"]


@pytest.mark.parametrize("shape", SHAPES)
def test_local_rows_are_those_of_the_devices_of_a_process(shape):
    sharding = sharding_of(shape)
    everywhere = sharding.devices_indices_map((16, 1))
    owned = []
    for process in range(2):  # as if each had half of the devices
        devices = jax.devices()[4 * process:4 * process + 4]
        local = SimpleNamespace(addressable_devices_indices_map=lambda _, devices=devices: {
            device: everywhere[device] for device in devices})
        rows = feed.local_rows(local, 16)
        assert list(rows) == sorted(set(rows))
        for device in devices:
            assert set(range(16)[everywhere[device][0]]) <= set(rows)
        owned.append(rows)
    spans = shape[0] > 1  # else both hold every row
    assert owned == ([tuple(range(8)), tuple(range(8, 16))] if spans
                     else [tuple(range(16))] * 2)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="divi"):
        feed.to_devices(batch_of(12), tuple(range(12)), 12, sharding_of((8, 1, 1)))


@pytest.mark.parametrize("depth", [0, 2, 9])
def test_ahead_keeps_the_order_and_yields_all(depth):
    sharding, asked = sharding_of((4, 2, 1)), []
    sizes = [8, 8, 16, 8, 16]
    rows = {size: feed.local_rows(sharding, size) for size in sizes}

    def batches():
        for number, size in enumerate(sizes):
            asked.append(number)
            yield batch_of(size, number)

    made = feed.ahead(batches(), sizes, rows, sharding, depth)
    first = next(made)
    assert asked == list(range(min(depth + 1, 5)))  # that many are on their way
    for number, whole in enumerate(itertools.chain([first], made)):
        np.testing.assert_array_equal(whole.tokens_BL, batch_of(sizes[number], number).tokens_BL)
    assert number == 4 and asked == list(range(5))
