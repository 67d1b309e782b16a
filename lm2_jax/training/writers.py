"""Writes metrics as they come: JSON lines and TensorBoard events, each step once."""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from lm2_jax.runtime import appended, files, paths
from lm2_jax.runtime.buckets import BucketPath
from lm2_jax.runtime.console import print_error
from lm2_jax.training.trackers import Trackers

FLUSH_SECONDS = 30.0  # until TensorBoard sees an event
COPY_SECONDS = 300.0  # the same in a bucket
FILE_BYTES = 4 << 20  # after which another file begins, so that no copy to a bucket is larger


class JsonLines:
    """Appends JSON objects to a file, one per line.

    Lines of steps after `last_step` are removed first: after a crash the steps since the last
    checkpoint are trained again. If the file has lines that cannot be read, it is copied to
    `NAME.damaged`, a message says so, and the other lines are kept. Lines for which the disk has no
    room are kept in memory until it has; a message says so once.

    Args:
      path: of the file; its folder is created if it does not exist.
      last_step: step after which the run resumes.
    """

    def __init__(self, path: str | Path, last_step: int):
        path = paths.of(path)
        content = appended.read(path)
        lines, damaged = _parse(content)
        if damaged:
            copy = _unused(path.with_name(f"{path.name}.damaged"))
            copy.write_bytes(content)
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            print_error(f"{path}: line {damaged[0]}{more} cannot be read; the run continues with "
                        f"the other lines, {copy} is the file as it was")
        kept = [line for line in lines if line["step"] <= last_step]
        self._path, self._file = path, appended.Appended(
            path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._pending, self._reported = b"", False

    def write(self, *objects: dict) -> None:
        """Writes lines in one piece: after a crash the file has all of them or none."""
        self._pending += b"".join(json.dumps(values).encode() + b"\n" for values in objects)
        self._drain()

    def flush(self) -> None:
        """Tries to write the lines that are kept in memory; waits until a bucket has them."""
        self._drain()
        self._file.sync()

    def _drain(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending):]
        except OSError as error:
            if not self._reported:
                print_error(f"{self._path} cannot be written: {error.strerror}; its lines are kept "
                            "in memory until it can")
            self._reported = True

    def close(self) -> None:
        self._drain()
        if self._pending:
            print_error(f"{self._path} lacks its last {self._pending.count(bytes([10]))} lines")
        self._file.close()


def read_lines(path: str | Path) -> list[dict]:
    """Returns the objects of a file of `JsonLines`; [] if there is no file.

    A last line that was cut short, and lines that cannot be read, are left out.
    """
    return _parse(appended.read(paths.of(path)))[0]


def _parse(content: bytes) -> tuple[list[dict], list[int]]:
    """The objects, and the numbers (from 1) of complete lines that are none with a step."""
    objects, damaged = [], []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            values = json.loads(line) if line else None
        except ValueError:  # UnicodeDecodeError is one
            values = ()
        if isinstance(values, dict) and type(values.get("step")) is int:
            objects.append(values)
        elif values is not None:
            damaged.append(number)
    return objects, damaged


def _unused(path: Path) -> Path:
    """The path, with a number if there is such a file already."""
    number, found = 1, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}.{number + 1}")
    return found


class MetricsWriter:
    """Writes the metrics of a run to `workdir/metrics.jsonl` and as TensorBoard events.

    Args:
      workdir: of the run.
      last_step: step after which the run resumes.
      trackers: that get the metrics too.
    """

    def __init__(self, workdir: str | Path, last_step: int, trackers: Trackers | None = None):
        self._lines = JsonLines(paths.of(workdir) / "metrics.jsonl", last_step)
        self._board = _Board(paths.of(workdir) / "tensorboard", last_step)
        self._trackers = trackers

    def write(self, step: int, values: dict[str, float | None]) -> None:
        """Writes one step; None (unknown) is null in the file and absent from the events."""
        self._lines.write({"step": step, **values})
        self._board.write(step, values)
        if self._trackers:
            self._trackers.write(step, values)

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        if self._trackers:
            self._trackers.close()
        self._board.close()
        self._lines.close()


class _Board:
    """Writes TensorBoard events until a write fails, since a file with a gap cannot be read.

    For a bucket they are written to a local disk and copied now and then, by a thread; a copy that
    fails is made good by the next one.

    tensorboardX's SummaryWriter is not used: its thread dies when the disk is full, and its queue,
    once full, blocks training for ever.
    """

    def __init__(self, folder: Path, last_step: int):
        self._folder, self._number, self._size = folder, 0, 0
        self._bucket = isinstance(folder, BucketPath)
        self._temporary = tempfile.TemporaryDirectory(prefix="lm2_jax_") if self._bucket else None
        self._local = Path(self._temporary.name) if self._temporary else folder
        self._copying = threading.Thread()
        self._local.mkdir(parents=True, exist_ok=True)
        self._flushed, self._began = time.monotonic(), time.time()
        self._open()
        # TensorBoard drops later steps of the files of earlier runs.
        self._add(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._add(step=step, summary=Summary(value=[
            Summary.Value(tag=name, simple_value=value) for name, value in values.items()
            if value is not None]))
        if self._bucket and self._size > FILE_BYTES:
            self._end_file()
            self._number += 1
            self._open()

    def close(self) -> None:
        self._end_file()
        if self._temporary:
            self._temporary.cleanup()

    def _open(self) -> None:
        number = f".{self._number}" if self._number else ""
        self._name = (f"events.out.tfevents.{self._began:.0f}.{socket.gethostname()}.{os.getpid()}"
                      f"{number}")
        self._records, self._size = RecordWriter(str(self._local / self._name)), 0
        self._add(file_version="brain.Event:2")

    def _end_file(self) -> None:
        if self._records:
            self._or_end(self._records.close)
        if self._bucket:
            if self._copying.is_alive():
                self._copying.join()
            self._copy(self._name)

    def _add(self, **content) -> None:
        if self._records:
            event = Event(wall_time=time.time(), **content).SerializeToString()
            self._size += len(event)
            self._or_end(self._records.write, event)
        if self._records and time.monotonic() - self._flushed > (
                COPY_SECONDS if self._bucket else FLUSH_SECONDS):
            self._flushed = time.monotonic()
            self._or_end(self._records.flush)
            if self._bucket and not self._copying.is_alive():
                self._copying = threading.Thread(target=self._copy, args=[self._name], daemon=True)
                self._copying.start()

    def _copy(self, name: str) -> None:
        try:
            files.copy(self._local / name, self._folder / name)
        except OSError as error:
            print_error(f"TensorBoard events were not copied to {self._folder}: {error.strerror}")

    def _or_end(self, action: Callable, *args) -> None:
        try:
            action(*args)
        except OSError as error:
            print_error(f"TensorBoard events of this run end here: {error.strerror}; metrics.jsonl "
                        "continues")
            with contextlib.suppress(OSError):
                self._records.close()
            self._records = None
