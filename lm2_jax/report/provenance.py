"""The origin of a result: config, step, versions, devices, commit."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

import jax

from lm2_jax.config import Config
from lm2_jax.config import files as config_file
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import write_text


def write(folder: str | Path, config: Config, step: int, parameters: int) -> Path:
    """Writes folder/provenance.json; `parameters` is the number of parameters of the model."""
    devices = jax.devices()
    facts = {
        "step": step,
        "parameters": parameters,
        "commit": commit(),
        "versions": {name: importlib.metadata.version(name)
                     for name in ("jax", "flax", "optax", "numpy")},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "config": config_file.to_dict(config),
    }
    path = paths.of(folder) / "provenance.json"
    write_text(path, json.dumps(facts, indent=2) + "\n")
    return path


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "-dirty" if files changed;
    None outside a git repository."""
    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *args], check=True,
                              capture_output=True, text=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None
