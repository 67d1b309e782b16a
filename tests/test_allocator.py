"""The allocator keeps the memory of a program between its runs."""

import os
import subprocess
import sys

import pytest

from lm2_jax.runtime import allocator

FAULTS = """
import resource, sys
from lm2_jax.runtime import allocator
kept = allocator.keep_freed_memory() if sys.argv[1] == "keep" else False
import jax, jax.numpy as jnp
x_ND = jnp.ones((1024, 512))
program = jax.jit(lambda x: sum((jnp.sin(x * n) @ x.T).sum() for n in range(4)))
for _ in range(3):
    jax.block_until_ready(program(x_ND))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    jax.block_until_ready(program(x_ND))
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(script: str, *args: str, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items()
                 if name not in allocator.OF_THE_USER} | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", script, *args], env=inherited | env, check=True,
                          capture_output=True, text=True).stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_the_temporaries_of_a_program_take_no_page_faults():
    kept, faults = run(FAULTS, "keep").split()
    if kept == "False":
        pytest.skip("there is an accelerator, or another C library")
    assert int(faults) < 500 < 2500 < int(run(FAULTS, "leave").split()[1])


def test_settings_of_the_environment_stay():
    script = "from lm2_jax.runtime import allocator; print(allocator.keep_freed_memory())"
    assert run(script, MALLOC_ARENA_MAX="2") == "False\n"
