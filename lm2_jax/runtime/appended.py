"""Text files to which lines are appended, such as metrics.jsonl, on a disk or in a bucket."""

import contextlib
import threading
import zlib
from pathlib import Path

from lm2_jax.runtime.buckets import BucketPath
from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import replacing

SECONDS = 10.0  # between two writes of lines to a bucket
PART_BYTES = 1 << 20  # once a part is larger, the next lines begin another one


class Appended:
    """A file whose content is replaced, and to which lines are then appended.

    In a bucket, where an object cannot grow, the lines that are appended go to parts beside it,
    NAME.part-ID-NUMBER, the last of which is written again at most every `SECONDS`, by a thread.
    Each is written as a whole, so that it never ends within a line. ID is that of the content of
    NAME: parts that follow another content do not count, so whichever write is the last one of a
    process that is killed, `read` finds each line once. `close` joins the parts to NAME.

    Args:
      path: of the file; its folder is created if it does not exist.
      content: that replaces what the file has now.
    """

    def __init__(self, path: Path, content: bytes):
        self._path, self._bucket = path, isinstance(path, BucketPath)
        if not self._bucket:
            with replacing(path) as partial:
                partial.write_bytes(content)
            self._file = open(path, "ab", buffering=0)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        old = _parts(path)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        for part in old:
            part.unlink(missing_ok=True)
        self._id, self._number, self._part = _id(content), 0, b""
        self._lock, self._uploading = threading.Lock(), threading.Lock()
        self._changed, self._closed, self._reported = threading.Event(), threading.Event(), False
        self._dirty = False
        self._thread = threading.Thread(target=self._upload_now_and_then, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Appends whole lines; returns how many bytes of them were taken.

        Raises:
          OSError: if the disk refuses them. A bucket takes them later: see `sync`.
        """
        if not self._bucket:
            return self._file.write(data)
        with self._lock:
            self._part, self._dirty = self._part + data, True
        self._changed.set()
        return len(data)

    def write_all(self, data: bytes) -> None:
        """Appends whole lines.

        Raises:
          OSError: if the disk refuses them.
        """
        while data:
            data = data[self.write(data):]

    def sync(self) -> bool:
        """Returns True when all that was written is in the bucket; False if it cannot be written,
        which is reported once; the lines are kept."""
        if not self._bucket:
            return True
        try:
            self._upload()
            return True
        except OSError as error:
            if not self._reported:
                print_error(f"{self._path} cannot be written: {error.strerror}; its lines are kept "
                            "in memory until it can")
            self._reported = True
            return False

    def close(self) -> None:
        if not self._bucket:
            self._file.close()
            return
        self._closed.set()
        self._changed.set()
        self._thread.join()
        if not self.sync():
            print_error(f"{self._path} lacks its last {self._part.count(bytes([10]))} lines")
        elif self._number or self._part:
            with contextlib.suppress(OSError):  # the parts hold the lines
                parts = _parts(self._path)
                self._path.write_bytes(read(self._path))
                for part in parts:
                    part.unlink(missing_ok=True)

    def _upload(self) -> None:
        with self._uploading:
            with self._lock:
                data, number, dirty = self._part, self._number, self._dirty
                self._dirty = False
                if len(data) > PART_BYTES:
                    self._part, self._number = b"", number + 1
            if not dirty:
                return
            try:
                part = self._path.with_name(f"{self._path.name}.part-{self._id}-{number:06}")
                part.write_bytes(data)
            except BaseException:
                with self._lock:
                    self._dirty = True
                    if self._number > number:
                        self._part, self._number = data + self._part, number
                raise
            self._reported = False

    def _upload_now_and_then(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            self._changed.clear()
            self.sync()
            self._closed.wait(SECONDS)


def read(path: Path) -> bytes:
    """The content of a file that `Appended` writes, or wrote; b"" if there is none."""
    if not isinstance(path, BucketPath):
        return path.read_bytes() if path.exists() else b""
    while True:
        try:
            parts = _parts(path)  # first: what is joined meanwhile has another ID then
            content = path.read_bytes() if path.exists() else b""
            found = [part for part in parts if f".part-{_id(content)}-" in part.name]
            return content + b"".join(part.read_bytes() for part in sorted(found))
        except FileNotFoundError:  # the parts were joined meanwhile
            continue


def tail(path: Path, size: int) -> bytes:
    """The last `size` bytes or more of such a file, if it has as many.

    Raises:
      OSError: if there is no such file.
    """
    if isinstance(path, BucketPath):
        return read(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def remove(path: Path) -> None:
    """Removes a file that `Appended` wrote."""
    if isinstance(path, BucketPath):
        for part in _parts(path):
            part.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.part-*"))


def _id(content: bytes) -> str:
    return f"{len(content):x}-{zlib.crc32(content):08x}"
