"""Who imports whom: read from the sources, so that a lower layer never knows a higher one."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lm2_jax"

# A part imports itself and the layers before its own, so those of one layer are strangers.
LAYERS = [
    {"errors"},
    {"types", "config"},
    {"partition", "shards", "runtime"},
    {"model", "data"},
    {"checkpoint"},
    {"generation"},
    {"training", "eval", "convert"},
    {"report"},
    {"analysis"},
    {"bench"},
    {"commands"},
    {"cli"},
    {"__init__"},
]
# Of one layer, and yet the first imports the second.
PEERS = {("runtime", "partition"), ("shards", "partition")}

ONLY_IMPORTER = {"orbax": ("checkpoint/",), "ml_collections": ("config/source.py",),
                 "safetensors": ("convert/tensors.py", "generation/saved.py")}
MESH_AXES = {"fsdp", "tensor"}
NAME_MESH_AXES = ("partition/", "config/mesh.py")
BACKENDS = {"xla", "cudnn", "gpu", "cuda", "rocm", "tpu", "pallas", "splash", "triton",
            "mosaic_gpu"}
NAME_BACKENDS = ("model/kernels/", "config/model.py", "runtime/topologies.py")


def sources():
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8")
            for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree):
    """The modules that a file imports, also inside functions: ["jax", "lm2_jax.model.lm", ...]"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "a relative import"
            elif node.module == "lm2_jax":
                yield from (f"lm2_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


def layer(part):
    return next((i for i, parts in enumerate(LAYERS) if part in parts), None)


def broken_rules(path, source):
    """One line for each rule that the file breaks."""
    tree = ast.parse(source)
    part = path.split("/")[0].removesuffix(".py")
    if layer(part) is None:
        yield f"{path}: {part} has no place in LAYERS"
        return
    for module in imported(tree):
        top, *inner = module.split(".")
        if top in ONLY_IMPORTER and not path.startswith(ONLY_IMPORTER[top]):
            yield f"{path} imports {top}; only {', '.join(ONLY_IMPORTER[top])} may"
        if "pallas" in inner and not path.startswith(NAME_BACKENDS):
            yield f"{path} imports {module}"
        if top == "a relative import":
            yield f"{path} has a relative import"
        if top == "lm2_jax":
            other = inner[0] if inner and layer(inner[0]) is not None else "__init__"
            if other != part and layer(other) >= layer(part) and (part, other) not in PEERS:
                yield f"{path} imports {module}"
    for node in ast.walk(tree):
        name = getattr(node, "value", None) if isinstance(node, ast.Constant) else (
            getattr(node, "attr", None))
        if (name in MESH_AXES and isinstance(node, ast.Constant)
                and not path.startswith(NAME_MESH_AXES)):
            yield f"{path} names the mesh axis {name}"
        if not path.startswith(NAME_BACKENDS) and (
                name == "default_backend" or isinstance(node, ast.Constant) and name in BACKENDS):
            yield f"{path} names the backend {name}"


def test_the_package_keeps_the_rules():
    assert [line for path, source in sources().items() for line in broken_rules(path, source)] == []


def test_every_part_is_found():
    parts = {path.split("/")[0].removesuffix(".py") for path in sources()}
    assert parts >= {"types", "config", "partition", "runtime", "model", "data", "checkpoint",
                     "training", "eval", "report", "analysis", "commands", "cli"}


@pytest.mark.parametrize("path,source", [
    ("model/lm.py", "from lm2_jax.data import batches"),
    ("data/batches.py", "import lm2_jax.model.lm"),
    ("training/loop.py", "from lm2_jax.eval.babilong import evaluate"),
    ("generation/engine.py", "from lm2_jax import eval"),
    ("eval/babilong.py", "from lm2_jax.report import tables"),
    ("training/loop.py", "def f():\n    from lm2_jax.commands import train"),
    ("partition/axes.py", "from lm2_jax.model.lm import LanguageModel"),
    ("config/model.py", "from lm2_jax.runtime import files"),
    ("report/tables.py", "from lm2_jax import Config"),
    ("commands/train.py", "from lm2_jax.cli import main"),
    ("training/state.py", "import orbax.checkpoint as ocp"),
    ("checkpoint/workdir.py", "from ml_collections import ConfigDict"),
    ("model/lm.py", "SPEC = ('fsdp', None)"),
    ("model/attention.py", "implementation = 'cudnn'"),
    ("training/step.py", "import jax\nfast = jax.default_backend() != 'cpu'"),
    ("model/memory/lm2.py", "from jax.experimental.pallas import tpu"),
    ("model/lm.py", "from .block import Block"),
    ("plots/curves.py", "import jax"),
    ("report/plots.py", "from lm2_jax.analysis import probe"),
    ("analysis/page.py", "from lm2_jax.commands import analyze"),
])
def test_a_broken_rule_is_seen(path, source):
    assert list(broken_rules(path, source))


@pytest.mark.parametrize("path,source", [
    ("data/batches.py", "from lm2_jax.config import Config\nfrom lm2_jax.data import babi"),
    ("eval/babilong.py", "from lm2_jax.data.babilong.corpus import Corpus"),
    ("report/tables.py", "from lm2_jax.eval.metrics import wilson"),
    ("checkpoint/checkpointer.py", "import orbax.checkpoint as ocp"),
    ("model/kernels/dispatch.py", "import jax\nfast = jax.default_backend() == 'gpu'"),
])
def test_what_is_allowed_is_not_refused(path, source):
    assert not list(broken_rules(path, source))
