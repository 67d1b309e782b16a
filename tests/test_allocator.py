"""The allocator keeps the memory of a program between its runs."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lm2_jax.runtime import allocator

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
FAULTS = """
import os, resource, sys
from lm2_jax.runtime import allocator
if sys.argv[1] == "keep":
    allocator.keep_freed_memory()
import jax, jax.numpy as jnp
x_N = jnp.ones(2**24)
program = jax.jit(lambda x: x + 1)
for _ in range(10):
    jax.block_until_ready(program(x_N))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    jax.block_until_ready(program(x_N))
print(allocator.VARIABLE in os.environ, os.getpid(),
      resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str) -> tuple[str, int]:
    """Returns whether the allocator is set in a process, and its page faults in five runs."""
    inherited = {name: value for name, value in os.environ.items()
                 if name not in allocator.OF_THE_USER} | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", FAULTS, how], env=inherited,
                               stdout=subprocess.PIPE, text=True)
    kept, pid, faults = process.communicate()[0].split()
    assert int(pid) == process.pid  # what waits for it or ends it need not know
    return kept, int(faults)


@pytest.mark.skipif(any(any(Path("/dev").glob(pattern)) for pattern in allocator.ACCELERATORS),
                    reason="there is an accelerator")
def test_the_arrays_of_a_program_take_no_page_faults():
    kept, faults = run("keep")
    assert kept == "True"
    assert faults < 20_000 < 80_000 < run("leave")[1]  # a page has 4 KB


@pytest.mark.parametrize("variable,restarts", [("MALLOC_ARENA_MAX", False), ("OTHER", True)])
def test_settings_of_the_environment_stay(variable, restarts, monkeypatch):
    """Without a new start of the process."""
    for name in allocator.OF_THE_USER:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, "2")
    monkeypatch.setattr(allocator, "ACCELERATORS", ())
    begun = []
    monkeypatch.setattr(os, "execv", lambda *arguments: begun.append(dict(os.environ)))
    allocator.keep_freed_memory()
    assert len(begun) == restarts and (allocator.VARIABLE in os.environ) == restarts
