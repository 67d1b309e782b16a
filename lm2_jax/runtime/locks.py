"""Whether a workdir can be used: written to, seen by all hosts, and by no other run."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lm2_jax.errors import UserError
from lm2_jax.runtime import processes


@contextlib.contextmanager
def locked(folder: Path, what: str, option: str = "--workdir") -> Iterator[None]:
    """Keeps other runs out of a folder; the lock goes with the process, however that ends.

    Raises:
      ValueError: another run holds it; says which.
    """
    if not processes.is_primary():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is in use by {file.read().strip() or 'another run'}; wait "
                            f"until that ends, or take another {option}") from None
        except OSError as error:
            print(f"{folder}: this file system has no locks ({error.strerror}); nothing keeps a "
                  "second run out", file=sys.stderr)
            yield
            return
        file.truncate(0)
        file.write(f"{what} on {socket.gethostname()}, pid {os.getpid()}, since "
                   f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield


def check_shared(workdir: Path) -> None:
    """Raises a ValueError where a process does not see what the first one wrote."""
    mark = processes.broadcast_from_primary(time.time_ns() % 2**31)
    path = workdir / f".shared-{mark}"
    if processes.is_primary():
        path.touch()
    processes.barrier("written")
    if not path.exists():
        raise UserError(f"{workdir} is not shared: {path.name}, which process 0 wrote there, is "
                         "not seen; the workdir must be on a file system that all hosts have")
    processes.barrier("seen")
    if processes.is_primary():
        path.unlink()


def require_writable(folder: Path, option: str = "--workdir") -> None:
    """Raises a UserError if nothing can be written to a folder, which need not exist yet; the
    message names the option that sets it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents)
                 if path.exists())
    if not there.is_dir():
        raise UserError(f"{there} is not a folder; take another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} is read-only for this user; take another {option}, or "
                              "make it writable")
