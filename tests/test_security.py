"""What .github/SECURITY.md promises, held against the sources."""

import ast
import functools
import json
import zipfile
from pathlib import Path

import numpy as np

from lm2_jax.checkpoint.checkpointer import META
from lm2_jax.checkpoint.packed import PARAM
from lm2_jax.cli import main
from lm2_jax.config import Config, files

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "SECURITY.md").read_text("utf-8")
RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "subprocess"}
MAY = {("data/workers.py", "cloudpickle"),  # between processes of one run
       ("bench/rival.py", "subprocess"), ("bench/torch_process.py", "subprocess"),
       ("bench/torch_llama.py", "torch"), ("bench/torch_memory.py", "torch"),  # not in this Python
       ("report/provenance.py", "subprocess"), ("runtime/children.py", "subprocess")}


@functools.cache
def trees():
    return [(path.relative_to(ROOT / "lm2_jax").as_posix(), ast.parse(path.read_text("utf-8")))
            for path in sorted((ROOT / "lm2_jax").rglob("*.py"))]


def test_no_pickle_is_read():
    imported = {(path, name.split(".")[0]) for path, tree in trees() for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                             else [node.module or ""])}
    assert {pair for pair in imported if pair[1] in RUNS_CODE} == MAY


def test_nothing_evaluates_text_or_unpickles_arrays():
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None)
                assert name not in ("eval", "exec", "__import__"), f"{path}: {name}"
                for keyword in node.keywords:
                    assert keyword.arg not in ("allow_pickle", "shell") or (
                        keyword.value.value is False), f"{path}: {keyword.arg}"


def test_only_configs_are_executed():
    found = {path for path, tree in trees() for node in ast.walk(tree)
             if getattr(node, "attr", None) in ("exec_module", "run_path")}
    assert found == {"config/source.py"}


def test_an_array_of_objects_is_not_unpickled(tmp_path, capsys):
    """In the place of a parameter of a packed run."""
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with zipfile.ZipFile(tmp_path / "run.npz", "w") as archive:
        archive.writestr(META, "{}")
        with archive.open(f"{PARAM}x.npy", "w") as entry:
            np.lib.format.write_array(entry, np.array([Runs()], object))
    assert main(["unpack", str(tmp_path / "run.npz"), f"--workdir={tmp_path / 'w'}"]) == 2
    assert not (tmp_path / "ran").exists()
    assert "allow_pickle=False" in capsys.readouterr().err


def test_credentials_of_the_environment_do_not_get_into_the_config(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret-1234")
    assert "secret" not in json.dumps(files.to_dict(Config()))
    assert "WANDB_API_KEY" in TEXT and "MLFLOW_TRACKING_URI" in TEXT


def test_the_ports_are_those_of_the_launchers():
    text = (ROOT / "launch" / "gke.yaml").read_text("utf-8")
    for line in text.splitlines():
        if "containerPort" in line:
            assert line.split()[2] in TEXT
