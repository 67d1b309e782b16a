"""Meshes over several slices: laid out by slice, equal to one device, and what crosses them."""

import dataclasses

import jax
import numpy as np
import pytest
from test_meshes import Chip
from training import CONFIG, MODEL, B, S, furthest, plain, train

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.report import crossing, groups
from lm2_jax.report.programs import training_step
from lm2_jax.runtime import meshes, topologies

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class InSlice:
    """A virtual device that knows the slice it is in."""

    def __init__(self, device, slice_index):
        self.device, self.slice_index = device, slice_index

    def __getattr__(self, name):
        return getattr(self.device, name)


def two_slices(**shape):
    """A mesh of eight devices, every other one in the same slice, and the slice of each place."""
    given = [InSlice(device, i % 2) for i, device in enumerate(jax.devices())]
    mesh = partition.make_mesh(shape, given)
    devices = np.vectorize(lambda each: each.device, otypes=[object])(mesh.devices)
    return (jax.sharding.Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types),
            partition.slices(mesh))


def test_a_slice_holds_every_axis_but_the_outermost_ways_of_data():
    mesh, slices = two_slices(data=1, fsdp=2, tensor=2, dcn_data=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert slices == [0] * 4 + [1] * 4
    mesh, slices = two_slices(data=2, fsdp=1, tensor=2, dcn_data=1, dcn_fsdp=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert slices == [0, 0, 1, 1] * 2


@pytest.mark.parametrize("shape,wanted", [
    (dict(dcn_data=3), "mesh.dcn_data=3 x mesh.dcn_fsdp=1 does not fit 2 slices"),
    (dict(dcn_data=-1, dcn_fsdp=4), "mesh.dcn_data=-1 x mesh.dcn_fsdp=4 does not fit 2 slices"),
    (dict(dcn_data=2, fsdp=3), "fsdp=3, tensor=1.* does not fit 4 devices of a slice")])
def test_slices_that_do_not_fit_are_one_line(shape, wanted):
    with pytest.raises(ValueError, match=wanted) as caught:
        two_slices(**shape)
    assert "\n" not in str(caught.value)


def test_slices_of_different_sizes_are_refused():
    given = [InSlice(device, i // 5) for i, device in enumerate(jax.devices())]
    with pytest.raises(ValueError, match="the slices have 5, 3 devices"):
        partition.make_mesh({"dcn_data": 2}, given)


def chips(slices):
    return [dataclasses.replace(Chip(i, (i % 4, i // 4 % 4, 0))) for i in range(16 * slices)]


def test_the_slices_of_chips_are_found():
    """Without a word in the config; and the mesh follows from the devices of one slice."""
    config = lm2.load_config("lm2_1b7")
    one, two = chips(1), [InSlice(chip, i // 16) for i, chip in enumerate(chips(2))]
    assert partition.across_slices({}, one) == {"dcn_data": 1, "dcn_fsdp": 1}
    assert partition.across_slices({}, two) == {"dcn_data": 2, "dcn_fsdp": 1}
    assert dict(meshes.for_training(config, one).shape) == {"data": 1, "fsdp": 16, "tensor": 1}
    mesh = meshes.for_training(config, two)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 16, "tensor": 1}
    assert partition.slices(mesh) == [0] * 16 + [1] * 16
    # Parameters that are only stored are split inside a slice.
    assert partition.mesh_for_storage(64, two).shape["fsdp"] == 16


def test_devices_without_a_torus_are_in_one_slice_unless_more_are_asked_for():
    assert partition.across_slices({}, jax.devices()) == {"dcn_data": 1, "dcn_fsdp": 1}
    hosts = [InSlice(device, i // 4) for i, device in enumerate(jax.devices())]
    assert partition.across_slices({"dcn_data": -1}, hosts) == {"dcn_data": 1, "dcn_fsdp": 1}
    assert partition.across_slices({"dcn_data": 2}, hosts) == {"dcn_data": 2, "dcn_fsdp": 1}
    with pytest.raises(ValueError, match="dcn_data=2 x mesh.dcn_fsdp=1 does not fit 1 slice:"):
        partition.make_mesh({"dcn_data": 2})  # all devices are of one process


def test_processes_of_one_machine_are_slices_if_these_are_asked_for():
    """JAX takes them for one slice, as they share the machine."""
    class InProcess(InSlice):
        def __init__(self, device, process_index):
            super().__init__(device, 0)
            self.process_index = process_index

    given = [InProcess(device, i // 4) for i, device in enumerate(jax.devices())]
    assert partition.across_slices({"dcn_data": 2}, given) == {"dcn_data": 2, "dcn_fsdp": 1}
    mesh = partition.make_mesh({"data": 1, "fsdp": 4, "dcn_data": 2}, given[::-1])
    assert [device.process_index for device in mesh.devices.flat] == [0] * 4 + [1] * 4


def test_an_abstract_mesh_of_slices():
    mesh = partition.make_mesh({"data": 1, "fsdp": -1, "dcn_data": 2}, 16)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 8, "tensor": 1}
    assert partition.slices(mesh) == []


@pytest.mark.parametrize("shape", [
    dict(data=1, fsdp=4, tensor=1, dcn_data=2), *(pytest.param(shape, marks=pytest.mark.slow)
        for shape in (dict(data=1, fsdp=2, tensor=2, dcn_data=2),
                      dict(data=2, fsdp=1, tensor=2, dcn_data=1, dcn_fsdp=2)))],
    ids=str)
def test_three_steps_on_two_slices_are_those_of_one_device(shape):
    mesh, _ = two_slices(**shape)
    run, alone = train(mesh=mesh), plain()
    assert furthest(run.after, alone.after) < 1e-5
    np.testing.assert_allclose([values["loss"] for values in run.metrics],
                               [values["loss"] for values in alone.metrics], rtol=1e-6)


# What crosses slices.

def compiled(mesh):
    with partition.use(mesh):
        return training_step(MODEL, CONFIG, mesh, rows=B, segments=S).lower().compile().as_text()


def small(found):
    """A metric: so many numbers as there are rows, or fewer."""
    return found.bytes <= 4 * B * len(found.shapes)


def test_sums_of_gradients_cross_slices_once():
    """And metrics of a few bytes."""
    mesh, slices = two_slices(data=1, fsdp=4, tensor=1, dcn_data=2)
    found = crossing.find(compiled(mesh), slices)
    assert all(each.runs == 1 and (each.sums or small(each)) for each in found)
    gradients, = [each for each in found if not small(each)]
    assert gradients.origin == "shard_map/psum"


@pytest.mark.slow
def test_only_sums_of_gradients_cross_slices_that_split_heads():
    """Beside metrics of a few bytes. With parameters over slices, they cross too."""
    mesh, slices = two_slices(data=1, fsdp=2, tensor=2, dcn_data=2)
    found = crossing.find(compiled(mesh), slices)
    large = [each for each in found if not small(each)]
    # The gradient of the unembedding is computed with the loss.
    assert large and all(each.sums and each.origin.startswith(("backward ", "BXD,BXV->DV/"))
                         for each in large)
    mesh, slices = two_slices(data=2, fsdp=1, tensor=2, dcn_data=1, dcn_fsdp=2)
    assert any(each.kind == "all-gather" and not small(each)
               for each in crossing.find(compiled(mesh), slices))


@pytest.mark.parametrize("text,wanted", [
    ("replica_groups={{0,1},{2,3}}, channel_id=1", [(0, 1), (2, 3)]),
    ("replica_groups={}, channel_id=1", []), ("channel_id=1", []),
    ("source_target_pairs={{0,2},{2,0}}", [(0, 2), (2, 0)]),
    ("replica_groups=[2,2]<=[4], dimensions={0}", [(0, 1), (2, 3)]),
    ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", [(0, 2), (1, 3)]),
    ("replica_groups=[2,4]<=[2,2,2]T(2,1,0), x", [(0, 4, 2, 6), (1, 5, 3, 7)]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [(0, 2), (1, 3)]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", [(0, 1), (2, 3)]),
    ("replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}, x", [(0, 2), (1, 3), (4, 6), (5, 7)]),
    ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}, x", [(0, 1, 2, 3)])])
def test_groups_in_every_form(text, wanted):
    assert groups.of(f"  %x = f32[2] all-reduce(%y), {text}") == wanted


def test_an_unknown_form_is_no_silent_nothing():
    with pytest.raises(ValueError, match="unknown form"):
        groups.of("  %x = f32[2] all-reduce(%y), replica_groups=new{1}")


SENT = '''HloModule jit_step

ENTRY %main (p: f32[8]) -> f32[] {
  %send.1 = (f32[2,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%b, %after-all), channel_id=6, \
is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",\
_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.2 = (f32[4]{0}, u32[], token[]) send(%c, %after-all), channel_id=7, \
frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
  ROOT %r = f32[] add(%x, %y)
}
'''


def test_what_the_tpu_compiler_sends_by_the_hosts_is_found():
    one, other = crossing.find(SENT, [0, 1])
    assert (one.kind, one.sums, one.bytes, one.shapes) == (
        "all-reduce", True, 8192, ("f32[2,8,128]",))
    assert (other.kind, other.sums, other.bytes) == ("all-gather", False, 16)


@pytest.mark.slow
@pytest.mark.parametrize("topology,fsdp", [("v5e:4x4", 16), ("v5p:4x4x4", 64)])
def test_the_tpu_compiler_sends_only_sums_between_two_slices(topology, fsdp):
    pytest.importorskip("libtpu")
    found = topologies.find(topology, slices=2)
    mesh = partition.make_mesh({"data": 1, "fsdp": fsdp}, found.devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": fsdp, "tensor": 1}
    model = dataclasses.replace(MODEL, embed_dim=64)
    with partition.use(mesh):
        hlo = training_step(model, CONFIG, mesh, rows=2 * fsdp, segments=2
                            ).lower().compile().as_text()
    crosses = crossing.find(hlo, partition.slices(mesh))
    assert crosses and all(each.sums for each in crosses)


@pytest.mark.parametrize("slices", [0, 2])
def test_slices_of_what_has_none_are_refused(slices):
    with pytest.raises(ValueError, match=f"--slices is {slices}"):
        topologies.find("cpu:8", slices)
