"""`lm2 compile`: for virtual CPUs, abstract GPUs, and TPUs where their compiler is installed."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import costs_of_steps
import jax
import pytest

from lm2_jax import cli, partition
from lm2_jax.config.files import load_config
from lm2_jax.report import compilation as reports
from lm2_jax.report import programs
from lm2_jax.runtime import meshes, topologies

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parents[1]
SMALL = ["compile", f"--config={ROOT / 'configs' / 'tiny.py'}", "--config.model.vocab_size=256",
         "--config.model.num_layers=1", "--config.model.memory.num_layers=1",
         "--config.eval.batch_size=24", "--config.data.curriculum=((0,1,64),(9,3,16))",
         "--config.train.rows_per_device=4", "--config.mesh.fsdp=2"]


@pytest.fixture(scope="module", autouse=True)
def eight_devices():
    """Are there before a command could ask for more."""
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def of_cpus(tmp_path_factory):
    """The folder of the report, and what was printed."""
    out, shown = tmp_path_factory.mktemp("report") / "report.md", io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert cli.main([*SMALL, "--topology=cpu:4", f"--out={out}"]) == 0
    return out.parent, shown.getvalue()


def test_report_of_virtual_cpus(of_cpus):
    folder, shown = of_cpus
    out, report = folder / "report.md", json.loads((folder / "cpu_4.json").read_text("utf-8"))
    assert report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    train, read, first, token = report["steps"]
    assert train["title"] == "training step, 3 segments of 48 tokens, 16 rows in 1 micro-batches"
    assert read["title"] == "evaluation, read 32 segments, 24 rows"
    assert first["title"] == "evaluation, first token, 24 rows"
    assert token["title"] == "evaluation, next token, 24 rows"
    for step in report["steps"]:
        sizes = step["bytes"]
        assert sizes["peak"] == (sizes["arguments"] + sizes["outputs"] + sizes["temporaries"]
                                 + sizes["program"] - sizes["reused"])
        assert step["fits"] is None and step["matrix_flops"] > 1e6 and step["collectives"]
    # Parameters and two moments, a half on each device, given up for the new ones.
    wanted = 3 * 4 * report["parameters"] / 2
    assert wanted < train["bytes"]["arguments"] < 1.1 * wanted
    assert train["bytes"]["reused"] > wanted
    table = out.read_text("utf-8")
    for step in report["steps"]:
        assert f"| cpu:4 | 2 x 2 x 1 | {step['title']} |" in table and step["title"] in shown


def test_a_program_that_the_report_has_is_not_compiled_again(of_cpus, tmp_path, monkeypatch):
    shutil.copy(of_cpus[0] / "cpu_4.json", tmp_path / "report.json")
    command = [*SMALL, "--topology=cpu:4", f"--out={tmp_path / 'report.json'}"]
    wanted = (tmp_path / "report.json").read_text("utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(programs, "compiled", lambda *_: pytest.fail("compiled"))
        assert cli.main(command) == 0
    assert (tmp_path / "report.json").read_text("utf-8") == wanted
    assert len(json.loads(wanted)["steps"][0]["digest"]) == 64
    assert cli.main([*command, "--step=train", "--config.model.mlp_dim=32"]) == 0
    changed = json.loads((tmp_path / "report.json").read_text("utf-8"))["steps"][0]
    assert changed["digest"] != json.loads(wanted)["steps"][0]["digest"]


def test_the_least_effort_is_said():
    report = reports.Report("c.py", "v5e:4x4", "TPU", 1, {"data": 1}, "0", 7, [], effort=-1.0)
    assert "jax 0, compiled with the least effort\n" in reports.markdown([report])


def test_reports_beside_each_other_are_one_table(tmp_path):
    for name, devices in (("v5e:16x16", 256), ("v5e:4x4", 16)):
        report = reports.Report("c.py", name, "TPU v5 lite", 16 * 2**30, {"data": 1, "f": devices},
                                "0", 7, [reports.Step("training step", 10, fits=devices > 16,
                                                      bytes=dict(arguments=2**20))])
        reports.write(report, tmp_path / "report.md")
    rows = [line for line in (tmp_path / "report.md").read_text("utf-8").splitlines()
            if "training step" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| v5e:4x4", "| v5e:16x16"]
    assert "| 1.00 MiB |" in rows[0] and "| NO |" in rows[0] and "| yes |" in rows[1]


@pytest.mark.parametrize("memory,status", [(1000, 1), (2**40, 0)])
def test_what_does_not_fit_is_an_error(monkeypatch, memory, status, capsys):
    cpus = topologies.find("cpu:2")
    monkeypatch.setattr(topologies, "find", lambda name, slices=1: dataclasses.replace(
        cpus, memory=memory))
    assert cli.main([*SMALL, "--topology=cpu:2", "--step=eval"]) == status
    assert ("NO" in capsys.readouterr().out) == bool(status)


@pytest.mark.parametrize("message,error", [
    ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
     "Used 20.53G of 15.75G hbm. Exceeded hbm capacity by 4.78G.\nmore", "20.53G of 15.75G"),
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
     "(256.97G) exceeds available HBM (15.75G).", "256.97G of 15.75G"),
    ("RESOURCE_EXHAUSTED: no sizes", "RESOURCE_EXHAUSTED"),
])
def test_out_of_memory_errors_are_reported_with_their_sizes(message, error):
    class Full:
        def lower(self):
            raise jax.errors.JaxRuntimeError(message)

    step = programs.compiled(Full(), reports.Step("t", 1),
                             topologies.Topology("t", [], "TPU", 16 * 2**30), None)
    assert step.fits is False and step.error == error
    report = reports.Report("c.py", "v5e:4x4", "TPU", 16 * 2**30, {"data": 1}, "0", 7, [step])
    assert f"| NO ({error}) |" in reports.markdown([report])


def test_other_errors_of_the_compiler_are_not_out_of_memory():
    assert reports.out_of_memory("INTERNAL: something else") is None


@pytest.mark.parametrize("platform,wanted", [("gpu", {"1"}), ("cpu", {"2"})])
def test_loops_are_unrolled_as_the_topology_wants_it(platform, wanted):
    """Not as the machine that compiles would."""
    config = load_config(ROOT / "configs" / "tiny.py", {"model.vocab_size": 256})
    mesh = meshes.for_training(config, 1 if platform == "gpu" else jax.devices()[:1])
    with partition.use(mesh):
        traced = programs.training_step(config.model, config.train, mesh, rows=8, segments=2)
    assert set(re.findall(r"unroll=(\d+)", str(traced.jaxpr))) == wanted


def test_gpus_are_lowered_for(capsys):
    assert cli.main([*SMALL, "--topology=gpu:8"]) == 0
    assert capsys.readouterr().out.count("lowered only") == 4


@pytest.mark.parametrize("arguments,message", [
    (["--topology=v5e"], "v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8, cpu:8, gpu:8"),
    (["--topology=cpu:x"], "the form cpu:8"), (["--topology=cpu:512"], "has 8 CPU devices"),
    (["--topology=cpu:4", "--out=x.txt"], "must end in .json or .md"),
    (["--topology=cpu:4", "--config.model.vocab_size=0"], "--config.model.vocab_size=32000"),
    (["--topology=cpu:7"], "does not"),
])
def test_what_cannot_be_is_said_in_one_line(arguments, message, capsys):
    assert cli.main([*SMALL, *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("lm2 compile: ") and said.count("\n") == 1


def test_without_the_tpu_compiler_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert cli.main([*SMALL, "--topology=v5e:4x4"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'lm2_jax[tpu]'" in said and said.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None,
                    reason="the compiler for GPUs is installed")
def test_without_the_compiler_for_gpus_the_extra_is_named(capsys):
    assert cli.main([*SMALL, "--topology=h100:8"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'lm2_jax[cuda]'" in said and said.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None,
                    reason="the compiler for GPUs is not installed: pip install 'lm2_jax[cuda]'")
def test_the_compiler_for_gpus_takes_every_step(tmp_path):
    out = tmp_path / "report.json"
    subprocess.run([sys.executable, "-m", "lm2_jax.cli", *SMALL, "--topology=h100:4",
                    f"--out={out}"], check=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"})
    report = json.loads(out.read_text("utf-8"))
    assert "H100" in report["chip"] and report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    for step in report["steps"]:
        assert step["fits"] and 0 < step["bytes"]["peak"] < 2**30
    assert report["steps"][0]["flops"] and report["steps"][0]["bound"]


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None,
                    reason="the compiler for GPUs is not installed: pip install 'lm2_jax[cuda]'")
def test_decoding_on_a_gpu_reads_each_parameter_once():
    """Without kernels.DECODING_OPTIONS and padded rows it moves 1.7 times their bytes."""
    out = subprocess.run([sys.executable, ROOT / "tests/tools/traffic_of_decoding.py"], check=True,
                         capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}).stdout
    assert float(out) < 1.1


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                    reason="the TPU compiler is not installed: pip install 'lm2_jax[tpu]'")
def test_the_tpu_compiler_takes_every_step(tmp_path):
    out = tmp_path / "report.json"
    subprocess.run([sys.executable, "-m", "lm2_jax.cli", *SMALL, "--topology=v5e:2x2",
                    f"--out={out}"], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    report = json.loads(out.read_text("utf-8"))
    assert report["chip"] == "TPU v5 lite" and report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    for step in report["steps"]:
        assert step["fits"] and 0 < step["bytes"]["peak"] < 2**30
    kinds = {row["kind"] for row in report["steps"][0]["collectives"]}
    assert "all-gather" in kinds


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                    reason="the TPU compiler is not installed: pip install 'lm2_jax[tpu]'")
def test_the_tpu_compiler_finds_the_costs_on_record():
    """To write them anew: python tests/tools/costs_of_steps.py --tpu --write"""
    stored = costs_of_steps.stored()
    if costs_of_steps.ON_TPU not in stored:
        pytest.skip("no record for this version of jax")
    found = costs_of_steps.in_a_process("--tpu")
    assert costs_of_steps.changes(found, stored) == []


def test_the_committed_reports_say_that_the_papers_model_fits():
    found = reports.read_all(ROOT / "configs" / "results" / "lm2_1b7_compile")
    assert [report.topology for report in found] == ["v5e:4x4", "v5p:4x4x4", "v6e:8x8",
                                                     "v5e:16x16"]
    for report in found:
        assert report.parameters > 1.7e9
        assert len(report.steps) == 4 and all(step.fits for step in report.steps)
