"""Real runs of configs/tiny.py, each in a process of its own."""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/tiny.py"
SMALL = ("--config.checkpoint.every_steps=4", "--config.eval.num_samples=8",
         "--config.eval.batch_size=8", "--config.eval.during_training=2",
         "--config.eval.max_new_tokens=3")


@functools.cache
def compiled() -> str:
    """Where runs keep what they have compiled, for the next ones: $LM2_TEST_CACHE, if it is set."""
    folder = os.environ.get("LM2_TEST_CACHE")
    if not folder:
        folder = tempfile.mkdtemp(prefix="lm2_jax_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start(command: str, workdir: Path, *overrides: str, processes: int = 1, devices: int = 0,
          environment: Mapping[str, str] = types.MappingProxyType({}), **options
          ) -> subprocess.Popen:
    """Starts `lm2 COMMAND` on a workdir, as several processes by the launcher that users have.

    Args:
      devices: virtual ones of each process; 0 = what there is.
    """
    arguments = [sys.executable, "-m", "lm2_jax.cli", command, CONFIG, f"--workdir={workdir}",
                 *SMALL, *overrides]
    # A quicker compilation: what these runs compute is small, and compared among themselves.
    variables = {"COLUMNS": "100", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                 "JAX_COMPILATION_CACHE_DIR": compiled(),
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    if processes > 1:
        arguments = ["launch/local.sh", "-n", str(processes), "-d", str(devices or 1), "--",
                     *arguments]
    elif devices:
        variables["JAX_NUM_CPU_DEVICES"] = str(devices)
    return subprocess.Popen(arguments, cwd=ROOT, env=os.environ | variables | environment,
                            text=True, **options)


def lm2(command: str, workdir: Path, *overrides: str, **options) -> subprocess.CompletedProcess:
    """Runs `lm2 COMMAND` on a workdir to its end."""
    return ended(start(command, workdir, *overrides, **options, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE))


def ended(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """What it said, when it has ended."""
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def pids(workdir: Path) -> dict[int, int]:
    """{index: pid} of the processes of a run that are alive now."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            index = [word for word in (folder / "environ").read_bytes().split(b"\0")
                     if word.startswith(b"LM2_PROCESS_ID=")]
            if (index and words[1:3] == [b"-m", b"lm2_jax.cli"]
                    and f"--workdir={workdir}".encode() in words):
                found[int(index[0].split(b"=")[1])] = int(folder.name)
    return found


@functools.cache
def finished() -> Path:
    """The workdir of a run that nothing interrupted, for every test that only reads one.

    All processes of the tests have the same; what the run printed is beside it, in finished.txt.
    """
    folder = Path(compiled())
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished.txt").exists():
            run = lm2("train", folder / "finished")
            assert run.returncode == 0, run.stderr
            (folder / "finished.txt").write_text(run.stdout)
    return folder / "finished"
