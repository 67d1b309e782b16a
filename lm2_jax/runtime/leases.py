"""A lock of a folder in a bucket: an object that its holder renews, and that others respect."""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm2_jax.errors import UserError
from lm2_jax.runtime import held
from lm2_jax.runtime.buckets import BucketPath
from lm2_jax.runtime.console import print_error

SECONDS = 60.0  # after which a lease that was not renewed may be taken over
RENEWALS = 4  # within that time
POLL_SECONDS = 2.0


class Lease:
    """The object `.lock` in a folder, written on condition that no other process wrote it.

    The store compares the version that the writer has seen with the one that it has (GCS:
    ifGenerationMatch, S3: If-Match and If-None-Match), so of two processes one succeeds. The age
    of a lease is the difference of two times of the store, so the clocks of hosts do not matter.

    Before anything is written below the folder, a lease that was not renewed for half its time is
    renewed. So a process that was stopped, or could not reach the store, learns that the lease is
    lost before it writes, and a request that it has sent has the other half to arrive.

    Args:
      folder: in a bucket.
      holder: who holds the lease, for the message that others get.
      option: that sets the folder, for the message.
      on_loss: receives a line if another process has taken the lease over, and ends this one.

    Raises:
      UserError: if another process holds it.
    """

    def __init__(self, folder: BucketPath, holder: str, option: str,
                 on_loss: Callable[[str], None]):
        self._object, self._folder, self._on_loss = folder / ".lock", folder, on_loss
        self._content: dict[str, Any] = {
            "holder": holder, "id": uuid.uuid4().hex, "process": _this_process(),
            "seconds": SECONDS, "renewed": 0}
        self._renewing, self._released = threading.Lock(), threading.Event()
        self._renewed = _clock()  # not later than the store's time of the last renewal
        self._version = self._acquire(option)
        held.add(str(folder), self.confirm)
        threading.Thread(target=self._keep, daemon=True).start()

    def confirm(self) -> None:
        """Renews the lease if that is overdue, as after the process was stopped for a while.

        Raises:
          OSError: if another process has the lease, or may have it, as the store cannot be reached.
        """
        if self._is_overdue(SECONDS / 2):
            self._renew(SECONDS / 2)

    def release(self) -> None:
        self._released.set()
        held.remove(str(self._folder))
        with self._renewing, contextlib.suppress(OSError):
            if self._object.version() == self._version:
                self._object.unlink()

    def _is_overdue(self, seconds: float) -> bool:
        return _clock() - self._renewed > seconds

    def _write(self, version: str | None) -> str:
        began = _clock()
        written = self._object.write_if(json.dumps(self._content).encode(), version)
        self._renewed = began
        return written

    def _acquire(self, option: str) -> str:
        waited, seen = False, None
        while True:
            try:
                return self._write(None)
            except FileExistsError:
                pass
            try:
                version, content = self._object.version(), read(self._object)
                age = _now(self._folder) - self._object.stat().st_mtime
            except FileNotFoundError:
                continue
            if content.get("id") == self._content["id"]:  # an attempt that seemed to have failed
                return version
            left = float(content.get("seconds", SECONDS)) - age
            alive = _is_alive(content.get("process"))
            if alive or seen not in (None, version):
                raise UserError(f"{self._folder} is in use by {content.get('holder')}; wait until "
                                f"that ends, or choose another {option}")
            if left <= 0 or alive is False:
                with contextlib.suppress(FileExistsError):
                    return self._write(version)
                continue
            if not waited:
                print_error(f"{self._folder} was in use by {content.get('holder')}; if that does "
                            f"not renew its lease within {left:.0f} s, this run goes on there")
            waited, seen = True, version
            time.sleep(min(POLL_SECONDS, left))

    def _renew(self, after: float) -> None:
        """Renews a lease whose last renewal is so many seconds ago, or more."""
        with self._renewing:
            if self._released.is_set() or not self._is_overdue(after):  # another thread did it
                return
            self._content["renewed"] += 1
            began = _clock()
            try:
                self._version = self._write(self._version)
            except FileExistsError:
                try:
                    found = read(self._object)
                    if found.get("id") == self._content["id"]:  # an attempt that seemed to fail
                        self._version = self._object.version()
                except FileNotFoundError:
                    found = {"holder": "nobody: its .lock was deleted"}
                if found.get("id") != self._content["id"]:
                    self._on_loss(f"{self._folder} was taken over by {found.get('holder')}, since "
                                  "this run did not renew its lease in time; this run ends here")
                    raise PermissionError(errno.EACCES, "another run has the lease",
                                          str(self._folder)) from None
                self._renewed = began

    def _keep(self) -> None:
        while not self._released.wait(min(POLL_SECONDS, SECONDS / RENEWALS)):
            if self._is_overdue(SECONDS / RENEWALS):
                with contextlib.suppress(OSError):
                    self._renew(SECONDS / RENEWALS)


def read(path: Path | BucketPath) -> dict[str, Any]:
    """What the object of a lease says; {} if it is damaged.

    Raises:
      FileNotFoundError: if there is no lease.
    """
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except ValueError:
        return {}


def holder(folder: BucketPath) -> str:
    """Who holds the lease of a folder now; "" if nobody does."""
    try:
        content = read(folder / ".lock")
        age = _now(folder) - (folder / ".lock").stat().st_mtime
    except FileNotFoundError:
        return ""
    expired = age > float(content.get("seconds", SECONDS))
    if expired or _is_alive(content.get("process")) is False:
        return ""
    return str(content.get("holder"))


def _clock() -> float:
    """Seconds, also of the time in which the machine was suspended, where its system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _now(folder: BucketPath) -> float:
    """The time of the store, in seconds: that of an object which is written to learn it."""
    with _probe(folder) as path:
        path.touch()
        return path.stat().st_mtime


@contextlib.contextmanager
def _probe(folder: BucketPath) -> Iterator[BucketPath]:
    path = folder / f".probe-{uuid.uuid4().hex[:12]}"
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def check_rights(folder: BucketPath, option: str) -> None:
    """Raises a UserError if the credentials do not allow to write, overwrite, list and delete."""
    path, doing = folder / f".probe-{uuid.uuid4().hex[:12]}", "written"
    try:
        path.write_bytes(b"1")
        doing = "overwritten, which checkpoints and metrics need"
        path.write_bytes(b"2")
        doing = "listed"
        list(folder.glob(path.name))
        doing = "deleted, which old checkpoints need"
        path.unlink()
    except FileNotFoundError:
        raise UserError(f"{folder}: there is no bucket {folder.bucket}; create it, or take another "
                        f"{option}") from None
    except OSError as error:
        raise UserError(f"{folder}: objects cannot be {doing}: {error.strerror}; take another "
                        f"{option}, or mend that") from error


def _this_process() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "boot": _text("/proc/sys/kernel/random/boot_id"),
            "pids": _link("/proc/self/ns/pid"), "pid": os.getpid(), "began": _began(os.getpid())}


def _is_alive(process: Any) -> bool | None:
    """Whether a process that holds a lease runs; None if it is not one of this machine."""
    here = _this_process()
    if not isinstance(process, dict) or not here["began"] or any(
            process.get(key) != here[key] for key in ("host", "boot", "pids")):
        return None
    return bool(process.get("began")) and _began(process["pid"]) == process["began"]


def _began(pid: int) -> str:
    """When a process began, in ticks since the machine started; "" if there is none."""
    # The second field, the name, may hold spaces. A zombie has ended.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
