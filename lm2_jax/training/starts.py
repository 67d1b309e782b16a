"""Every start of a run: when, after which step, on which hosts and devices."""

import socket
import sys
import time
from pathlib import Path

import jax

from lm2_jax.runtime import processes
from lm2_jax.training.writers import JsonLines, read_lines

FILE = "starts.jsonl"


def record(workdir: Path, step: int, began: float) -> None:
    """Adds a line about this start to the file; every process must call this.

    Args:
      step: after which the run starts.
      began: when the command began, in seconds since 1970.
    """
    hosts = sorted(set(processes.gather("hosts", socket.gethostname())))
    if not processes.is_primary():
        return
    lines = JsonLines(workdir / FILE, last_step=sys.maxsize)  # a later start removes none
    lines.write({"step": step, "time": round(began, 3), "recorded": round(time.time(), 3),
                 "hosts": hosts, "processes": jax.process_count(), "devices": jax.device_count(),
                 "device": jax.devices()[0].device_kind, "jax": jax.__version__})
    lines.close()


def read(workdir: Path) -> list[dict]:
    """The lines of all starts, the first one first; [] for a run of an earlier version."""
    return read_lines(workdir / FILE)
