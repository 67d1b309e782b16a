"""Checks that a workdir is writable, shared by all hosts, and used by no other run."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lm2_jax.errors import UserError
from lm2_jax.runtime import leases, processes
from lm2_jax.runtime.buckets import BucketPath
from lm2_jax.runtime.console import print_error


@contextlib.contextmanager
def locked(folder: Path, what: str, option: str = "--workdir") -> Iterator[None]:
    """Locks a folder against other runs. The lock ends with the process, however that ends; in a
    bucket it ends `leases.SECONDS` later if the process is killed.

    Args:
      folder: it is created if it does not exist.
      what: name of the run, for the message that another run gets.
      option: that sets the folder, for the message.

    Raises:
      UserError: if another run holds the lock; the message names it.
    """
    processes.refuse_in_worker()
    if not processes.is_primary():
        yield
        return
    holder = (f"{what} on {socket.gethostname()}, pid {os.getpid()}, since "
              f"{time.strftime('%Y-%m-%d %H:%M:%S')}")
    if isinstance(folder, BucketPath):
        lease = leases.Lease(folder, holder, option, _end)
        try:
            yield
        finally:
            lease.release()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is in use by {file.read().strip() or 'another run'}; wait "
                            f"until that ends, or choose another {option}") from None
        except OSError as error:
            print_error(f"{folder}: this file system has no locks ({error.strerror}); nothing "
                        "prevents a second run here")
            yield
            return
        file.truncate(0)
        file.write(holder + "\n")
        file.flush()
        yield


def _end(line: str) -> None:
    print_error(line)
    processes.abort(line, 1)
    os._exit(1)


def holder(folder: Path) -> str:
    """The run that holds the lock of a folder now, as `locked` describes it; "" if none does."""
    if isinstance(folder, BucketPath):
        return leases.holder(folder)
    if not (folder / ".lock").exists():
        return ""
    with open(folder / ".lock", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another run"
        except OSError:  # this file system has no locks
            pass
    return ""


def claim(path: Path) -> TextIO | None:
    """Opens a file for appending and locks it; returns None if another process has locked it.

    The lock lasts until the file is closed, here and in each process that inherited it. On a file
    system without locks every claim succeeds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass
    return file


def check_shared(workdir: Path) -> None:
    """Raises a UserError on each process that does not see a file which process 0 wrote."""
    mark = processes.broadcast_from_primary(time.time_ns() % 2**31)
    path = workdir / f".shared-{mark}"
    if processes.is_primary():
        path.touch()
    processes.barrier("written")
    if not path.exists():
        where = ("the same object of the same store for all hosts: compare their credentials and "
                 "endpoints" if isinstance(workdir, BucketPath) else
                 "on a file system that all hosts mount")
        raise UserError(f"{workdir} is not shared: {path.name}, which process 0 wrote there, is "
                        f"not visible; the workdir must be {where}")
    processes.barrier("checked")
    if processes.is_primary():
        path.unlink()


def require_writable(folder: Path, option: str = "--workdir") -> None:
    """Raises a UserError if the user may not write to a folder, or may not create it.

    Args:
      option: that sets the folder, for the message.
    """
    if isinstance(folder, BucketPath):
        leases.check_rights(folder, option)
        return
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents)
                    if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is not a folder; take another {option}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing} is read-only for this user; take another {option}, or make "
                        "it writable")
