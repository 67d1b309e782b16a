"""Writes metrics as they come: JSON lines and TensorBoard events, each step once."""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import replacing
from lm2_jax.training.trackers import Trackers

FLUSH_SECONDS = 30.0  # until TensorBoard sees an event


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
        path = Path(path)
        lines, damaged = _parse(path)
        if damaged:
            copy = _unused(path.with_name(f"{path.name}.damaged"))
            shutil.copyfile(path, copy)
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            print_error(f"{path}: line {damaged[0]}{more} cannot be read; the run continues with "
                        f"the other lines, {copy} is the file as it was")
        kept = [line for line in lines if line["step"] <= last_step]
        with replacing(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self._path, self._file = path, open(path, "ab", buffering=0)
        self._pending, self._reported = b"", False

    def write(self, *objects: dict) -> None:
        """Writes lines in one piece: after a crash the file has all of them or none."""
        self._pending += b"".join(json.dumps(values).encode() + b"\n" for values in objects)
        self.flush()

    def flush(self) -> None:
        """Tries to write the lines that are kept in memory."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending):]
        except OSError as error:
            if not self._reported:
                print_error(f"{self._path} cannot be written: {error.strerror}; its lines are kept "
                            "in memory until it can")
            self._reported = True

    def close(self) -> None:
        self.flush()
        if self._pending:
            print_error(f"{self._path} lacks its last {self._pending.count(bytes([10]))} lines")
        self._file.close()


def read_lines(path: str | Path) -> list[dict]:
    """Returns the objects of a file of `JsonLines`; [] if there is no file.

    A last line that was cut short, and lines that cannot be read, are left out.
    """
    return _parse(Path(path))[0]


def _parse(path: Path) -> tuple[list[dict], list[int]]:
    """The objects, and the numbers (from 1) of complete lines that are none with a step."""
    if not path.exists():
        return [], []
    objects, damaged = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
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
        self._lines = JsonLines(Path(workdir) / "metrics.jsonl", last_step)
        self._board = _Board(Path(workdir) / "tensorboard", last_step)
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

    tensorboardX's SummaryWriter is not used: its thread dies when the disk is full, and its queue,
    once full, blocks training for ever.
    """

    def __init__(self, folder: Path, last_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records, self._flushed = RecordWriter(str(folder / name)), time.monotonic()
        self._add(file_version="brain.Event:2")
        # TensorBoard drops later steps of the files of earlier runs.
        self._add(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._add(step=step, summary=Summary(value=[
            Summary.Value(tag=name, simple_value=value) for name, value in values.items()
            if value is not None]))

    def close(self) -> None:
        if self._records:
            self._or_end(self._records.close)

    def _add(self, **content) -> None:
        if self._records:
            event = Event(wall_time=time.time(), **content)
            self._or_end(self._records.write, event.SerializeToString())
        if self._records and time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._or_end(self._records.flush)

    def _or_end(self, action: Callable, *args) -> None:
        try:
            action(*args)
        except OSError as error:
            print_error(f"TensorBoard events of this run end here: {error.strerror}; metrics.jsonl "
                        "continues")
            with contextlib.suppress(OSError):
                self._records.close()
            self._records = None
