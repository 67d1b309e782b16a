"""Runs commands as child processes, on a CPU core of their own if asked for."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from lm2_jax.errors import RunError
from lm2_jax.runtime import locks

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def cores() -> list[int]:
    """The cores that this process may use; none where the system cannot assign a process to one."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def has_accelerators() -> bool:
    """Whether JAX computes on a GPU or a TPU here; asked in a process that ends, since a process
    that uses such a device keeps its memory from the children.

    Raises:
      RunError: if JAX finds no device.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    asked = subprocess.run([sys.executable, "-c", "import jax; print(jax.devices()[0].platform)"],
                           capture_output=True, text=True)
    if asked.returncode:
        raise RunError(f"JAX finds no device: {asked.stderr.strip().splitlines()[-1]}")
    return asked.stdout.split()[-1] != "cpu"


def start(command: Sequence[str], log: TextIO, cores: Sequence[int] = ()) -> subprocess.Popen:
    """Starts a command whose output goes to `log`, in a session of its own.

    A Ctrl-C in the terminal therefore does not reach it. If `log` is locked, it stays locked until
    the command ends.

    Args:
      cores: the command computes in one thread, on one of these cores that no other command of
        this function has, whichever process started it; where each core has one, the system
        chooses. () lets the command use all of the machine.
    """
    with contextlib.ExitStack() as stack:
        environment, inherited = dict(os.environ), []
        if cores:
            flags = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
            environment |= {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
            core, claim = _free_core(cores)
            if claim:
                inherited.append(stack.enter_context(claim).fileno())
                # Of this thread: the child begins with it, before it has any other thread.
                stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
                os.sched_setaffinity(0, {core})
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                stderr=subprocess.STDOUT, env=environment, pass_fds=inherited,
                                start_new_session=True)


def ask(module: str, request: str, begun: str, seconds: float) -> tuple[int | None, str, str]:
    """Runs a module of this package as a process, which reads a request on stdin.

    Args:
      begun: the line on stdout with which the process says that it is ready.
      seconds: that it may take from then on; after that it is killed.

    Returns:
      (its status; None if it was killed, what it wrote to stdout after the line, and to stderr).
    """
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True) as child:
        assert child.stdin and child.stdout
        output, status = "", None
        try:
            child.stdin.write(request)
            child.stdin.close()
            child.stdin = None
            ready = child.stdout.readline().strip() == begun
            output, _ = child.communicate(timeout=seconds if ready else None)
            status = child.returncode
        except BrokenPipeError:
            status = child.wait()
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()
        errors.seek(0)
        return status, output, errors.read()


def _free_core(cores: Sequence[int]) -> tuple[int, TextIO | None]:
    """A core that no child has, and the lock on it; (-1, None) if there is none."""
    folder = Path(tempfile.gettempdir()) / f"lm2_cores_{os.getuid()}"
    for core in cores:
        if claim := locks.claim(folder / str(core)):
            return core, claim
    return -1, None
