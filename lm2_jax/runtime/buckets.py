"""Paths in a bucket of Google Cloud Storage (gs://) or S3 (s3://)."""

import contextlib
import fnmatch
import io
import stat
import types
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lm2_jax.runtime import clients, held, store_errors, urls
from lm2_jax.runtime.held import writing
from lm2_jax.runtime.store_errors import translated

PATH_METHODS = ("name", "stem", "suffix", "suffixes", "parts")


class BucketPath:
    """An object in a bucket, or the objects below a prefix, with the methods of `pathlib.Path`.

    It is no `os.PathLike`, so that `open`, `Path` or a library of C++ never takes it for a path on
    a local disk. Folders need not be created: they exist while an object is below them. An object
    is written as a whole: a reader sees the old one or the new one. Paths that a listing returned
    know their size, kind and checksum of then, and ask no more.

    Args:
      url: as "gs://bucket/folder/name".

    Raises:
      UserError: if it is no such URL, or the library that it needs is not installed.
    """

    def __init__(self, url: str, known: dict | None = None):
        self._scheme, _, path = url.partition("://")
        self._path, self._known = PurePosixPath(path.rstrip("/")), known
        if known is None:
            urls.check(self._scheme, path, url)

    # What needs no request.

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    as_posix = __str__

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __getattr__(self, name: str) -> Any:
        if name in PATH_METHODS:
            return getattr(self._path, name)
        raise AttributeError(name)

    def __getstate__(self):
        return self._scheme, self._path

    def __setstate__(self, state) -> None:
        (self._scheme, self._path), self._known = state, None

    @property
    def bucket(self) -> str:
        return self._path.parts[0]

    @property
    def key(self) -> str:
        """The name of the object in its bucket."""
        return "/".join(self._path.parts[1:])

    @property
    def parent(self) -> "BucketPath":
        return self._at(self._path.parent) if len(self._path.parts) > 1 else self

    @property
    def parents(self) -> tuple["BucketPath", ...]:
        return tuple(self._at(path) for path in list(self._path.parents)[:-1])

    def __truediv__(self, other: str | PurePosixPath) -> "BucketPath":
        return self._at(self._path / other)

    def with_name(self, name: str) -> "BucketPath":
        return self._at(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> "BucketPath":
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        return self._path.relative_to(other._path)

    def absolute(self) -> "BucketPath":
        return self

    resolve = expanduser = absolute

    # Reading.

    def exists(self) -> bool:
        with translated(self):
            return self._store.exists(self._name)

    def is_file(self) -> bool:
        with translated(self):
            return self._known["type"] == "file" if self._known else self._store.isfile(self._name)

    def is_dir(self) -> bool:
        with translated(self):
            return (self._known["type"] == "directory" if self._known
                    else self._store.isdir(self._name))

    def info(self) -> dict:
        """What the store says of an object: "size" (bytes), "mtime", checksums, ..."""
        with translated(self):
            return self._known or self._store.info(self._name)

    def stat(self) -> Any:
        """Has `st_size` in bytes, `st_mtime` in seconds, and `st_mode` of a file or folder."""
        info = self.info()
        changed = info.get("mtime") or info.get("LastModified")
        return types.SimpleNamespace(
            st_size=info["size"] or 0, st_mtime=changed.timestamp() if changed else 0.0,
            st_mode=stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG)

    def checksum(self) -> str:
        """The checksum of an object that its store keeps, after the scheme: "gs:CRC-32C" in
        base64, or "s3:ETAG"."""
        info = self.info()
        kept = info.get("crc32c") or info.get("md5Hash") or str(info.get("ETag", "")).strip('"')
        return f"{self._scheme}:{kept}"

    def iterdir(self) -> Iterator["BucketPath"]:
        with translated(self):
            found = self._store.ls(self._name, detail=True)
        for info in found:
            path = self._listed(info)
            if path != self:  # an empty object may stand for the folder
                yield path

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """The objects at any depth below, in one listing, whose last name matches; no folders."""
        with translated(self):
            found = self._store.find(self._name, detail=True)
        for info in found.values():
            path = self._listed(info)
            if path != self and fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        first, _, rest = pattern.partition("/")
        if first == "**":
            yield from self.rglob(rest)
            return
        try:
            found = [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first)]
        except FileNotFoundError:
            return
        for path in found:
            if not rest:
                yield path
            elif path.is_dir():
                yield from path.glob(rest)

    def matching(self) -> list["BucketPath"]:
        """The objects and folders whose names match this one as a pattern, sorted."""
        with translated(self):
            found = self._store.glob(self._name, detail=True)
        return sorted(map(self._listed, found.values()))

    def read_bytes(self) -> bytes:
        with translated(self):
            return self._store.cat_file(self._name)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        # As a text file is read: with any end of line.
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding, errors).read()

    def open(self, mode: str = "r", buffering: int = -1, encoding: str | None = None,
             errors: str | None = None, newline: str | None = None) -> IO:
        """Opens an object for reading; `files.replacing` writes one."""
        if mode.strip("bt") != "r":
            raise ValueError(f"an object can be opened to read it, not as {mode!r}")
        with translated(self):
            file = io.BufferedReader(cast(io.RawIOBase, self._store.open(self._name, "rb")))
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def download(self, to: Path) -> None:
        """Copies an object to a local file."""
        with translated(self):
            self._store.get_file(self._name, str(to))

    # Writing.

    def write_bytes(self, data: bytes) -> int:
        with writing(self):
            self._store.pipe_file(self._name, data)
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        return self.write_bytes(text.encode(encoding))

    def version(self) -> str:
        """The version of an object, another one after each write (GCS: generation, S3: ETag).

        Raises:
          FileNotFoundError: if there is no such object.
        """
        info = self.info()
        return str(info.get("generation") or info["ETag"])

    def write_if(self, data: bytes, version: str | None) -> str:
        """Writes an object if its version is still a given one; returns the new version.

        Args:
          version: None = if there is no such object.

        Raises:
          FileExistsError: if the object has another version.
        """
        with translated(self):
            if self._scheme == "gs":
                url = self._store.base.replace("/storage/v1/", "/upload/storage/v1/")
                return str(self._store.call(
                    "POST", url + "b/{}/o", self.bucket, uploadType="media", name=self.key,
                    ifGenerationMatch=version or "0", data=data, json_out=True)["generation"])
            condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
            try:
                return self._store.call_s3("put_object", Bucket=self.bucket, Key=self.key,
                                           Body=data, **condition)["ETag"]
            except OSError as error:
                if store_errors.is_conflict(error):
                    raise FileExistsError from error
                raise

    def touch(self) -> None:
        self.write_bytes(b"")

    def upload(self, file: Path) -> None:
        """Replaces an object by a local file."""
        with writing(self):
            self._store.put_file(str(file), self._name)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing, since a folder needs no object of its own."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with writing(self):
                self._store.rm_file(self._name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self, first: str = "") -> None:
        """Deletes all objects below.

        Args:
          first: name, below, of the one that is deleted before the others: without it they are no
            longer taken for something whole.
        """
        found = sorted(self.rglob("*"), key=lambda path: path != self / first)
        if found and found[0] == self / first:
            found.pop(0).unlink(missing_ok=True)
        with writing(self), contextlib.suppress(FileNotFoundError):
            if found:
                self._store.rm([path._name for path in found])

    def copy_below(self, to: "BucketPath", last: str = "") -> None:
        """Copies all objects below, within the store; that named `last` after the others."""
        held.confirm(str(to))
        for path in sorted(self.rglob("*"), key=lambda path: path == self / last):
            with translated(path):
                self._store.cp_file(path._name, (to / path.relative_to(self))._name)

    # The store.

    @property
    def _name(self) -> str:
        return str(self._path)

    @property
    def _store(self) -> Any:
        return clients.store(self._scheme)

    def _at(self, path: PurePosixPath) -> "BucketPath":
        new = BucketPath.__new__(BucketPath)
        new._scheme, new._path, new._known = self._scheme, path, None
        return new

    def _listed(self, info: dict) -> "BucketPath":
        return BucketPath(f"{self._scheme}://{info['name'].lstrip('/')}", info)
