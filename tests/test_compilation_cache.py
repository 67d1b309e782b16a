"""Compiled programs are cached on disk by default."""

import os
import subprocess
import sys

import pytest
import runs

SCRIPT = """
import jax
from lm2_jax.runtime import compilation_cache
compilation_cache.enable()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(3)
print(jax.config.jax_compilation_cache_dir)
"""


def run(tmp_path, script=SCRIPT, **environment):
    process = subprocess.run([sys.executable, "-c", script], cwd=runs.ROOT, text=True, check=True,
                             stdout=subprocess.PIPE, env=clean() | {
                                 "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment})
    return process.stdout.strip()


def clean():
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))} | {
                "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(runs.ROOT)}


def test_programs_are_kept_in_the_users_cache_folder(tmp_path):
    folder = run(tmp_path)
    assert folder.startswith(str(tmp_path / "cache" / "lm2_jax" / "compiled"))
    assert list((tmp_path / "cache").rglob("jit_*"))
    assert run(tmp_path) == folder


def test_nothing_is_kept_where_the_cache_is_disabled(tmp_path):
    """Although a program was kept before."""
    run(tmp_path, SCRIPT + """
def second(x):
    return x * 3

def third(x):
    return x * 4

with compilation_cache.disabled():
    jax.jit(second)(3)
jax.jit(third)(3)
""")
    kept = {path.name.split("-")[0] for path in (tmp_path / "cache").rglob("jit_*")}
    assert "jit_third" in kept and "jit_second" not in kept


@pytest.mark.parametrize("environment", [{"JAX_COMPILATION_CACHE_DIR": "own"},
                                         {"JAX_ENABLE_COMPILATION_CACHE": "0"}], ids=str)
def test_what_is_configured_is_left_as_it_is(tmp_path, environment):
    environment = {name: value.replace("own", str(tmp_path / "own"))
                   for name, value in environment.items()}
    run(tmp_path, **environment)
    assert not (tmp_path / "cache").exists()
