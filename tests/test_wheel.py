"""The wheel: it holds the package, its data files and the configs, and works from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lm2_jax.config.files import shipped

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's file, built of a copy, so that nothing is written into the checkout."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lm2_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
                    "--no-build-isolation", "--wheel-dir", str(folder), str(source)], check=True)
    built, = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs Python with the unpacked wheel, in an empty folder; returns what it printed."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)

    def run(*arguments):
        empty = tmp_path_factory.mktemp("empty")
        ended = subprocess.run([sys.executable, *arguments], cwd=empty, text=True, check=True,
                               env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "100"},
                               capture_output=True)
        return ended.stdout

    return run


def test_it_holds_the_package_its_data_and_the_configs(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        size = sum(info.file_size for info in file.infolist())
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lm2_jax").rglob("*")
               if path.is_file() and path.suffix not in (".pyc", ".md")}
    configs = {f"lm2_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert names == package | configs
    assert "lm2_jax/py.typed" in names and size < 2_000_000


def test_configs_are_found_by_name_from_any_folder(installed):
    code = ("import lm2_jax\nfrom lm2_jax.config import files\n"
            "print(files.load_config('quickstart').train.num_steps,"
            " files.load_config('rivals:rmt').model.memory.kind)\n"
            "print(files.shipped())")
    assert installed("-c", code).splitlines() == ["2400 rmt", str(shipped())]


def test_a_command_takes_a_config_by_name_from_any_folder(installed):
    printed = installed("-m", "lm2_jax.cli", "data", "--config=tiny", "--rows=1")
    assert "Where is" in printed
