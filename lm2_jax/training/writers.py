"""Metrics as they come: JSON lines and TensorBoard events, each step once."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import replacing

SECONDS_TO_BOARD = 30.0  # until TensorBoard sees an event


class JsonLines:
    """Appends one JSON object a line; lines of steps after `last_step` are dropped first.

    After a crash the steps since the last checkpoint are trained again, so their lines, and
    one that was cut short, go. What a full disk does not take waits until it does: said once.
    """

    def __init__(self, path: str | Path, last_step: int):
        path = Path(path)
        kept = [line for line in read_lines(path) if line["step"] <= last_step]
        with replacing(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self._path, self._file = path, open(path, "ab", buffering=0)
        self._waiting, self._said = b"", False

    def write(self, *objects: dict) -> None:
        """Together: all of them, or, after a crash, none."""
        self._waiting += b"".join(json.dumps(values).encode() + b"\n" for values in objects)
        self.flush()

    def flush(self) -> None:
        """Tries again what is waiting."""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting):]
        except OSError as error:
            if not self._said:
                print_error(f"{self._path} cannot be written: {error.strerror}; its lines wait")
            self._said = True

    def close(self) -> None:
        self.flush()
        if self._waiting:
            print_error(f"{self._path} lacks its last {self._waiting.count(bytes([10]))} lines")
        self._file.close()


def read_lines(path: str | Path) -> list[dict]:
    """The objects of a JSON-lines file; none if there is no file, a cut last line left out."""
    path = Path(path)
    if not path.exists():
        return []
    whole = [line for line in path.read_text("utf-8").split("\n")[:-1] if line]
    return [json.loads(line) for line in whole]


class MetricsWriter:
    """A run's metrics: `workdir/metrics.jsonl`, and TensorBoard events beside it."""

    def __init__(self, workdir: str | Path, last_step: int, tensorboard: bool):
        self._lines = JsonLines(Path(workdir) / "metrics.jsonl", last_step)
        self._board = _Board(Path(workdir) / "tensorboard", last_step) if tensorboard else None

    def write(self, step: int, values: dict[str, float | None]) -> None:
        """One step; a value that is None (unknown) is null in the file, absent in the events."""
        self._lines.write({"step": step, **values})
        if self._board:
            self._board.write(step, values)

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        if self._board:
            self._board.close()
        self._lines.close()


class _Board:
    """TensorBoard events, until the disk does not take one: a file with a gap cannot be read.

    Not tensorboardX's SummaryWriter: its thread dies of a full disk, and its queue, once full,
    holds up the training for ever.
    """

    def __init__(self, folder: Path, last_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records, self._flushed = RecordWriter(str(folder / name)), time.monotonic()
        self._add(file_version="brain.Event:2")
        # Of an earlier run: steps after the last one do not count.
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
        if self._records and time.monotonic() - self._flushed > SECONDS_TO_BOARD:
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
