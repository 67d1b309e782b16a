"""Programs do not grow with the number of blocks and segments where loops stay loops."""

import json

import jax
import pytest
from test_inspection import printed

from lm2_jax import cli
from lm2_jax.bench import compiling
from lm2_jax.config import files
from lm2_jax.model import kernels

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SMALL = {"model.vocab_size": "64", "model.embed_dim": "16", "model.mlp_dim": "16",
         "model.segment_length": "8"}


@pytest.fixture(autouse=True)
def cache():
    """As it was: the command compiles everything anew."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.parametrize("memory", [
    pytest.param(1, marks=pytest.mark.slow), 0])
def test_programs_do_not_grow_with_blocks_and_segments(memory, tmp_path):
    config = files.load_config("tiny", SMALL | {"model.memory.num_layers": str(memory)})
    rows, text = printed(compiling.run, config, "tiny", "cpu:2", 1, tmp_path)
    assert [(row.blocks, row.segments) for row in rows] == [(4, 8), (16, 8), (4, 64)]
    for row in rows[1:]:
        assert row.lowered <= 1.2 * rows[0].lowered
        assert row.instructions <= 1.2 * rows[0].instructions
    stored = json.loads((tmp_path / "compile.json").read_text("utf-8"))["steps"]
    assert stored[2]["instructions"] == rows[2].instructions
    assert f"{rows[1].instructions:,}" in text and min(rows[1].seconds) > 0


def test_unrolled_loops_are_seen_to_grow(monkeypatch):
    """As on a single CPU device, where they are faster."""
    monkeypatch.setattr(kernels, "unroll", lambda length, copied=0: 1 if length == 8 else length)
    config = files.load_config("tiny", SMALL | {"model.memory.num_layers": "0"})
    mesh = compiling.meshes.for_training(config, 2)
    lines = []
    for blocks in (4, 16):
        model = compiling.dataclasses.replace(config.model, num_layers=blocks)
        with compiling.partition.use(mesh):
            lines.append(compiling.programs.training_step(
                model, config.train, mesh, rows=8, segments=8).lower(
                    lowering_platforms=("cpu",)).as_text().count("\n"))
    assert lines[1] > 1.5 * lines[0]


@pytest.mark.parametrize("arguments,message", [
    (["--repeats=0"], "--repeats is 0"), (["--topology=gpu:2"], "no compiler for gpu:2")])
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    assert cli.main(["bench", "compile", "--config=tiny", *arguments]) == 2
    assert message in capsys.readouterr().err
