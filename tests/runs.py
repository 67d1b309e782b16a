"""Real runs of configs/tiny.py, each in a process of its own."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/tiny.py"
SMALL = ("--config.checkpoint.every_steps=4", "--config.eval.num_samples=8",
         "--config.eval.batch_size=8", "--config.eval.during_training=2",
         "--config.eval.max_new_tokens=3")


@functools.cache
def compiled() -> str:
    """Where runs keep what they have compiled, for the next ones."""
    folder = os.environ.get("LM2_TEST_CACHE")
    if not folder:
        folder = tempfile.mkdtemp(prefix="lm2_jax_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start(command: str, workdir: Path, *overrides: str, **options) -> subprocess.Popen:
    """Starts `lm2 COMMAND` on a workdir."""
    arguments = [command, CONFIG, f"--workdir={workdir}", *SMALL, *overrides]
    environment = os.environ | {"COLUMNS": "100", "JAX_COMPILATION_CACHE_DIR": compiled(),
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    return subprocess.Popen([sys.executable, "-m", "lm2_jax.cli", *arguments], cwd=ROOT,
                            env=environment, text=True, **options)


def lm2(command: str, workdir: Path, *overrides: str) -> subprocess.CompletedProcess:
    """Runs `lm2 COMMAND` on a workdir to its end."""
    process = start(command, workdir, *overrides, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@functools.cache
def finished(folder: Path) -> Path:
    """The workdir of a run that nothing interrupted, for every test that only reads one."""
    run = lm2("train", folder / "finished")
    assert run.returncode == 0, run.stderr
    (folder / "finished.txt").write_text(run.stdout)
    return folder / "finished"
