"""`lm2 bench roofline`: bounds by formula, a table of variants that resumes."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from lm2_jax import cli, partition
from lm2_jax.bench import roofline as bench
from lm2_jax.config.files import load_config
from lm2_jax.report import compilation, flops, formulas, programs, roofline
from lm2_jax.report.collectives import Collective, each
from lm2_jax.runtime import topologies

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parents[1]
SMALL = {"model.vocab_size": "256", "model.num_layers": "2", "model.memory.num_layers": "0",
         "data.curriculum": "((0,1,64),(9,2,16))", "train.rows_per_device": "4", "mesh.data": "1",
         "mesh.fsdp": "4"}


def test_the_least_time_is_the_longest_of_the_three():
    bound = roofline.bound("TPU v5 lite", 197e12, 819e9 / 2, 0.25)
    assert bound == roofline.Bound(1.0, 0.5, 0.25)
    assert (bound.seconds, bound.no_overlap, bound.limit) == (1.0, 1.75, "arithmetic")
    assert roofline.bound("cpu", 1.0, 1.0) is None
    assert roofline.bound("NVIDIA H100 80GB HBM3", 0, 3350e9).limit == "memory"
    step = compilation.Step("t", 100, model_flops=8 * 0.6 * 50, flops=50,
                            bound=dataclasses.asdict(roofline.Bound(2.0, 4.0, 1.0)))
    assert step.mfu(8) == pytest.approx(0.6 * 2 / 4)
    assert step.mfu(8, overlap=False) == pytest.approx(0.6 * 2 / 7)


@pytest.mark.parametrize("kind,share", [
    ("all-gather", 3 / 4), ("all-reduce", 6 / 4), ("reduce-scatter", 3), ("all-to-all", 3 / 4),
    ("collective-permute", 1)])
def test_what_a_device_receives(kind, share):
    one = Collective(kind, [("bf16", "16,64")], 5, (0, 1, 2, 3), "")
    assert one.bytes == 2048 and one.received == share * 2048


def test_links_are_those_of_the_axes_that_a_group_spans():
    """A slice of 4 x 16: lines of 4, rings of 16."""
    coordinates = [(x, y, 0) for x in range(4) for y in range(16)]
    peaks = roofline.Chip(1.0, link=100.0, ring=16)

    def seconds(*group):
        one = Collective("all-gather", [("u8", "1000")], 3, group, "")
        return roofline.exchange_seconds([one], peaks, coordinates)

    received = 3 * 1000 * (1 - 1 / 4)
    assert seconds(0, 16, 32, 48) == pytest.approx(received / 100)  # a line
    assert seconds(0, 1, 2, 3) == pytest.approx(received / 200)  # a ring
    assert seconds(0, 1, 16, 17) == pytest.approx(received / 300)
    assert seconds() == 0


@pytest.mark.parametrize("groups,first", [
    ("{{0,2},{1,3}}", (0, 2)), ("[2,4]<=[8]", (0, 1, 2, 3)), ("[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
    ("mesh['x'=2,'y'=4] {'x'}", (0, 4)), ("mesh['x'=2,'y'=4] {'x','y'}", tuple(range(8)))])
def test_groups_are_read_in_every_form(groups, first):
    hlo = f"""ENTRY %main (p: f32[8]) -> f32[8] {{
  ROOT %a = f32[8] all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%sum
}}
"""
    assert [one.group for one in each(hlo)] == [first]
    scattered = f"""%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {{
  %a = f32[8] all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%sum
}}
"""
    one, = each(scattered + "ENTRY %m (p: f32[8]) -> f32[2] {\n  ROOT %f = f32[2] fusion(%p), "
                            "kind=kCustom, calls=%all-reduce-scatter.1\n}\n")
    assert one.kind == "reduce-scatter" and one.bytes == 32 // len(first)


@pytest.mark.parametrize("mesh,changes", [
    ({"fsdp": 8}, {"model.memory.num_layers": "0"}), ({"fsdp": 4, "tensor": 2}, {})])
def test_formulas_of_the_papers_model(mesh, changes):
    """FLOPs are exact but for a few small products, where no kernel recomputes affinities; what
    rematerialisation adds is less than one forward pass."""
    config = load_config("lm2_1b7", changes | {"model.attention_implementation": "xla"})
    mesh = partition.make_mesh(mesh, 8)
    with partition.use(mesh):
        _, step = programs.training(config, mesh)
    costs = formulas.training_step(config, mesh, 32, 8, 32 // partition.rows_per_step(mesh))
    needed = (step.matrix_flops - step.recomputed) / 8
    assert needed == pytest.approx(costs.flops, rel=0.01)
    assert 0.15 < step.recomputed / step.matrix_flops < 0.25


def test_kernels_count_once_for_each_place_of_their_grid():
    from jax.experimental import pallas as pl

    def kernel(x_ref, y_ref, o_ref):
        o_ref[...] = x_ref[...] @ y_ref[...]

    def product(x, y, **options):
        block = pl.BlockSpec((16, 32), lambda i: (i, 0))
        return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((64, 32), x.dtype), grid=(4,),
                              in_specs=[block, pl.BlockSpec((32, 32), lambda i: (0, 0))],
                              out_specs=block, **options)(x, y) @ y

    x, y = jax.ShapeDtypeStruct((64, 32), "float32"), jax.ShapeDtypeStruct((32, 32), "float32")
    traced = jax.jit(product).trace(x, y)
    assert flops.of_kernels(traced) == 2 * 64 * 32 * 32
    assert flops.of_traced(traced) == 2 * flops.of_kernels(traced)
    estimate = pl.CostEstimate(flops=77, transcendentals=0, bytes_accessed=0)
    estimated = jax.jit(lambda x, y: product(x, y, cost_estimate=estimate)).trace(x, y)
    assert flops.of_kernels(estimated) == 77


def test_what_every_device_computes_counts_for_all_of_them():
    mesh = partition.make_mesh({"data": 2, "tensor": 4})
    shape = jax.ShapeDtypeStruct((64, 32), "float32")
    product = jax.shard_map(lambda x: x.T @ x, mesh=mesh, check_vma=False,
                            in_specs=jax.P("data"), out_specs=jax.P())
    traced = jax.jit(product).trace(shape)
    assert flops.of_traced(traced) == 8 * 2 * 32 * 32 * 32


def test_variants_are_a_table_that_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(roofline.CHIPS, "CPU", roofline.Chip(1e10))
    monkeypatch.setitem(roofline.clock.PEAK_FLOPS, "CPU", 1e12)
    cpus = topologies.find("cpu:4")
    monkeypatch.setattr(topologies, "find", lambda name, slices=1: dataclasses.replace(
        cpus, name=name, memory=2**30))
    variants = tmp_path / "variants.json"
    variants.write_text(json.dumps([
        {"name": "own"}, {"name": "full", "config": {"model.remat": "full"},
                          "topologies": ["cpu:other"]}]))
    arguments = ["bench", "roofline", "--config=tiny", "--topologies=cpu:4",
                 f"--variants={variants}", f"--out={tmp_path / 'out'}",
                 *(f"--config.{key}={value}" for key, value in SMALL.items())]
    assert cli.main(arguments) == 0
    rows = bench.read_rows(tmp_path / "out" / "roofline.json")
    own, full = rows
    assert [(row.variant.name, row.report.topology) for row in rows] == [
        ("own", "cpu:4"), ("full", "cpu:other")]
    assert full.step.recomputed > 0.1 * full.step.matrix_flops and not own.step.recomputed
    assert own.mfu and bench.best(rows) == rows
    for row in rows:
        assert row.step.flops == pytest.approx(row.step.matrix_flops / 4, rel=0.1)
        assert 0.5 < row.step.received / row.formulas["received"] < 2
        assert row.step.moved > row.formulas["moved"]
    text = (tmp_path / "out" / "roofline.md").read_text("utf-8")
    assert "| * | cpu:4 | own | 1 x 4 x 1 | 1 | yes |" in text
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.count(": known") == 2
    assert bench.read_rows(tmp_path / "out" / "roofline.json") == rows
    variants.write_text('[{"name": "a", "typo": 1}]')
    assert cli.main(arguments) == 2
    assert 'variants.json is not a list of {"name"' in capsys.readouterr().err


def test_without_variants_every_rematerialisation_is_compared():
    variants = bench.remat_variants()
    assert len(variants) == 6 and variants[0].config == {
        "model.remat": "none", "train.remat_segments": False}
