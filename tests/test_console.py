"""Output that cannot be written does not end a run, and paths are printed as they are."""

import io
import json
import os
import subprocess
import sys

import kill_train
import pytest
import runs
from rich.table import Table

from lm2_jax.runtime import console
from lm2_jax.runtime.console import Console, SafeStream, print_error

pytestmark = pytest.mark.processes

RUN = ("--config.train.num_steps=20", "--config.train.eval_every_steps=5",
       "--config.train.advance_accuracy=0", "--config.data.curriculum=((0,1),)",
       "--config.eval.lengths=96", "--config.eval.num_samples=4")


def test_strings_are_printed_as_they_are():
    file = io.StringIO()
    path = "runs/tiny [lr=5e-3] [/bold] :smile: " + "x" * 200
    Console(file=file, width=40).print(path)
    assert file.getvalue() == path + "\n"


def test_tables_are_fitted_to_the_width():
    file = io.StringIO()
    table = Table("a", "b", title="[title]")
    table.add_row("[x]" * 30, "y" * 30)
    Console(file=file, width=40).print(table)
    assert max(map(len, file.getvalue().splitlines())) == 40
    assert "[x][x]" in file.getvalue() and "[title]" in file.getvalue()


SCRIPT = """
import sys
from rich.table import Table
from lm2_jax.runtime import console
console.redirect_failed_output_to(sys.argv[1] or None)
out = console.Console()
table = Table("caf\\u00e9", title="\\u2192")
table.add_row("\\u03c3")
for number in range(2000):
    out.print(f"line {number} \\u2192")
out.print(table)
console.print_error("alive")
"""


def script(fallback, environment=(), **options):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(fallback)], cwd=runs.ROOT,
                            env=os.environ | dict(environment), **options)


@pytest.mark.parametrize("kept", [True, False])
def test_a_reader_that_exits_ends_nothing(tmp_path, kept):
    log = tmp_path / "output.log"
    process = script(log if kept else "", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0 and err.splitlines()[-1] == "alive"
    assert log.exists() == kept and ("stdout cannot be written (Broken pipe)" in err) == kept
    if kept:
        first, *_, last = log.read_text("utf-8").strip().splitlines()
        assert first.endswith("stdout cannot be written (Broken pipe); its output continues here")
        assert "line 1999" in log.read_text("utf-8") and last.startswith("└")


def test_a_full_disk_ends_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        process = script(tmp_path / "output.log", stdout=full, stderr=full)
        assert process.wait() == 0
    text = (tmp_path / "output.log").read_text("utf-8")
    assert "stdout cannot be written (No space left on device)" in text and "line 1999" in text
    with open("/dev/full", "w") as full:  # where nothing at all can be written
        assert script("/dev/full", stdout=full, stderr=full).wait() == 0


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"},
                                       {"LC_ALL": "C", "PYTHONUTF8": "0",
                                        "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_without_unicode_gets_replacements(variables):
    process = script("", variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0 and err == b"alive\n"
    assert out.startswith(b"line 0 ?\n") and b"caf?" in out and out.decode("ascii")


def test_closed_streams_end_nothing(tmp_path):
    done = subprocess.run(["bash", "-c", 'exec "$@" >&- 2>&-', "-", sys.executable, "-c", SCRIPT,
                           str(tmp_path / "log")], cwd=runs.ROOT)
    assert done.returncode == 0


def test_streams_that_are_no_files(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Broken())
    Console().print("one")
    print_error("two")
    monkeypatch.setattr(sys, "stdout", None)
    Console().print("three")
    assert not SafeStream("stdout").isatty()


@pytest.mark.slow
def test_the_reader_of_a_run_exits(tmp_path):
    """lm2 train ... | head -2"""
    workdir = tmp_path / "run lr=5e-3"
    process = runs.start("train", workdir, *RUN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(2):
        process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0, err
    assert kill_train.last_step(workdir) == 20
    assert json.loads((workdir / "eval" / "results.json").read_text())
    text = (workdir / "output.log").read_text("utf-8")
    assert "stdout cannot be written (Broken pipe)" in text and "time: " in text


@pytest.mark.slow
def test_the_disk_of_a_run_s_log_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        process = runs.start("train", tmp_path / "run", *RUN,
                             "--config.checkpoint.on_failure=continue", stdout=full, stderr=full)
        assert process.wait() == 0
    text = (tmp_path / "run" / "output.log").read_text("utf-8")
    assert "No space left on device" in text and "time: " in text


@pytest.fixture(autouse=True)
def no_fallback():
    yield
    console.redirect_failed_output_to(None)
