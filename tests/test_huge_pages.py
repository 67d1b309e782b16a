"""Commands ask Linux for huge pages."""

import os
import subprocess
import sys

import pytest

from lm2_jax import cli
from lm2_jax.runtime import huge_pages

FAULTS = """
import os, resource, sys
from lm2_jax.runtime import huge_pages
if sys.argv[1] == "ask":
    huge_pages.ask_for_them()
import jax, jax.numpy as jnp
x_N = jnp.ones(2**24)
program = jax.jit(lambda x: x + 1)
for _ in range(10):
    jax.block_until_ready(program(x_N))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    jax.block_until_ready(program(x_N))
print(huge_pages.VARIABLE in os.environ, os.getpid(),
      resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str) -> tuple[str, int]:
    """Returns whether huge pages are asked for in a process, and its page faults in five runs."""
    inherited = {name: value for name, value in os.environ.items()
                 if name != huge_pages.VARIABLE} | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", FAULTS, how], env=inherited,
                               stdout=subprocess.PIPE, text=True)
    asked, pid, faults = process.communicate()[0].split()
    assert int(pid) == process.pid  # what waits for it or ends it need not know
    return asked, int(faults)


@pytest.mark.skipif(not huge_pages.available(), reason="no program can ask for huge pages here")
def test_the_arrays_of_a_program_take_few_page_faults():
    asked, faults = run("ask")
    assert asked == "True"
    assert faults < 10_000 < 50_000 < run("leave")[1]  # 5 arrays of 64 MB, in pages of 4 KB


@pytest.mark.parametrize("mode,set_to,restarts", [
    ("always [madvise] never", "", True), ("[always] madvise never", "", False),
    ("always madvise [never]", "", False), (None, "", False),
    ("always [madvise] never", "glibc.malloc.arena_max=2", False)])
def test_a_process_starts_anew_where_that_helps(mode, set_to, restarts, monkeypatch, tmp_path):
    """Never if the user's environment has tunables."""
    monkeypatch.setattr(huge_pages, "MODE", tmp_path / "enabled")
    if mode:
        huge_pages.MODE.write_text(mode + "\n")
    monkeypatch.setenv(huge_pages.VARIABLE, set_to)  # so that it is put back
    if not set_to:
        monkeypatch.delenv(huge_pages.VARIABLE)
    begun = []
    monkeypatch.setattr(os, "execv", lambda *arguments: begun.append(arguments))
    huge_pages.ask_for_them()
    assert begun == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])] * restarts
    assert os.environ.get(huge_pages.VARIABLE, "") == (
        huge_pages.SETTING if restarts else set_to)
    assert huge_pages.environment_of_the_user().get(huge_pages.VARIABLE, "") == set_to


def test_commands_ask_for_them_in_a_process_of_their_own(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(huge_pages, "ask_for_them", lambda: asked.append(True))
    monkeypatch.setattr(sys, "argv", ["lm2", "configs"])
    assert cli.main(["configs"]) == 0 and not asked  # called by another program
    assert cli.main() == 0 and asked
