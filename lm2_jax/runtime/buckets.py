"""Paths in a bucket of Google Cloud Storage (gs://) or S3 (s3://)."""

import contextlib
import errno
import fnmatch
import functools
import importlib.util
import io
import logging
import os
import re
import stat
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lm2_jax.errors import UserError

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}  # that the schemes need; extras are `gcs` and `s3`
EXTRAS = {"gs": "gcs", "s3": "s3"}
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
ATTEMPTS = 6  # of each request, with pauses that double; about 30 seconds in all
REQUEST_SECONDS = 120  # after which a request has failed
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
            _check(self._scheme, path, url)

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
        with _translated(self):
            return self._store.exists(self._name)

    def is_file(self) -> bool:
        with _translated(self):
            return self._known["type"] == "file" if self._known else self._store.isfile(self._name)

    def is_dir(self) -> bool:
        with _translated(self):
            return (self._known["type"] == "directory" if self._known
                    else self._store.isdir(self._name))

    def info(self) -> dict:
        """What the store says of an object: "size" (bytes), "mtime", checksums, ..."""
        with _translated(self):
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
        with _translated(self):
            found = self._store.ls(self._name, detail=True)
        for info in found:
            path = self._listed(info)
            if path != self:  # an empty object may stand for the folder
                yield path

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """The objects at any depth below, in one listing, whose last name matches; no folders."""
        with _translated(self):
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
        with _translated(self):
            found = self._store.glob(self._name, detail=True)
        return sorted(map(self._listed, found.values()))

    def read_bytes(self) -> bytes:
        with _translated(self):
            return self._store.cat_file(self._name)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        # As a text file is read: with any end of line.
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding, errors).read()

    def open(self, mode: str = "r", buffering: int = -1, encoding: str | None = None,
             errors: str | None = None, newline: str | None = None) -> IO:
        """Opens an object for reading; `files.replacing` writes one."""
        if mode.strip("bt") != "r":
            raise ValueError(f"an object can be opened to read it, not as {mode!r}")
        with _translated(self):
            file = io.BufferedReader(cast(io.RawIOBase, self._store.open(self._name, "rb")))
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def download(self, to: Path) -> None:
        """Copies an object to a local file."""
        with _translated(self):
            self._store.get_file(self._name, str(to))

    # Writing.

    def write_bytes(self, data: bytes) -> int:
        with _translated(self):
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
        with _translated(self):
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
                if re.search("PreconditionFailed|ConditionalRequestConflict", text_of(error)):
                    raise FileExistsError from error
                raise

    def touch(self) -> None:
        self.write_bytes(b"")

    def upload(self, file: Path) -> None:
        """Replaces an object by a local file."""
        with _translated(self):
            self._store.put_file(str(file), self._name)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing, since a folder needs no object of its own."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _translated(self):
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
        with _translated(self), contextlib.suppress(FileNotFoundError):
            if found:
                self._store.rm([path._name for path in found])

    def copy_below(self, to: "BucketPath", last: str = "") -> None:
        """Copies all objects below, within the store; that named `last` after the others."""
        for path in sorted(self.rglob("*"), key=lambda path: path == self / last):
            with _translated(path):
                self._store.cp_file(path._name, (to / path.relative_to(self))._name)

    # The store.

    @property
    def _name(self) -> str:
        return str(self._path)

    @property
    def _store(self) -> Any:
        return store(self._scheme)

    def _at(self, path: PurePosixPath) -> "BucketPath":
        new = BucketPath.__new__(BucketPath)
        new._scheme, new._path, new._known = self._scheme, path, None
        return new

    def _listed(self, info: dict) -> "BucketPath":
        return BucketPath(f"{self._scheme}://{info['name'].lstrip('/')}", info)


def _check(scheme: str, path: str, url: str) -> None:
    if scheme not in LIBRARIES:
        raise UserError(f"{url} is a URL of a kind that is not supported; give a local path, "
                        "gs://BUCKET/... or s3://BUCKET/...")
    bucket, *names = path.rstrip("/").split("/")
    if not BUCKET.fullmatch(bucket):
        raise UserError(f"{url}: {bucket!r} cannot be the name of a bucket, which has 3 or more "
                        "lower-case letters, digits, dots, dashes and underscores")
    if bad := [name for name in names if name in ("", ".", "..")]:
        raise UserError(f"{url} has the part {bad[0]!r}, which no name in a bucket may have here")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise UserError(f"{url!r} has a control character; give a path without one")
    if importlib.util.find_spec(LIBRARIES[scheme]) is None:
        raise UserError(f"{url} needs the library {LIBRARIES[scheme]}: pip install "
                        f"'lm2_jax[{EXTRAS[scheme]}]'")


@functools.cache
def store(scheme: str) -> Any:
    """The fsspec file system of a scheme; it keeps no listings, which others may change."""
    configure(scheme)
    import fsspec

    return fsspec.filesystem(scheme)


@functools.cache
def configure(scheme: str) -> None:
    """Sets what every client of a kind of store in this process needs, also those of orbax."""
    # etils would prefer TensorFlow, where it is installed.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    import fsspec.config

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        import gcsfs.core

        if "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT" not in os.environ:
            # Its other class asks about the kind of each bucket; orbax does that itself.
            for protocol in ("gs", "gcs"):
                fsspec.register_implementation(protocol, gcsfs.core.GCSFileSystem, clobber=True)
        options["requests_timeout"] = REQUEST_SECONDS
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"
    else:
        import s3fs

        s3fs.S3FileSystem.retries = 1  # it would repeat what botocore repeats
        options |= {"default_fill_cache": False, "config_kwargs": {
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
            "connect_timeout": 20, "read_timeout": REQUEST_SECONDS}}
    fsspec.config.conf[scheme] = options | fsspec.config.conf.get(scheme, {})
    if not os.environ.get("LM2_TRACEBACK"):
        # They log a traceback beside the exception that they raise.
        for name in ("gcsfs", "s3fs", "fsspec", "google.auth", "aiobotocore", "botocore"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "Your application has authenticated", UserWarning)


@contextlib.contextmanager
def _translated(path: BucketPath) -> Iterator[None]:
    """Raises what the clients raise as an OSError with a cause in a few words and the URL."""
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        code = error.errno or (errno.EEXIST if isinstance(error, FileExistsError)
                               else errno.ENOENT)
        raise type(error)(code, os.strerror(code), str(path)) from error
    except Exception as error:
        if not is_of_store(error):
            raise
        number = errno.EACCES if is_refusal(error) else errno.EIO
        raise OSError(number, cause(error), str(path)) from error


def is_of_store(error: BaseException) -> bool:
    """Whether a client of a store raised an exception because of the store or the network."""
    modules = ("gcsfs", "s3fs", "aiohttp", "aiobotocore", "botocore", "google", "requests",
               "urllib3", "fsspec", "asyncio", "ssl")
    return (isinstance(error, (OSError, TimeoutError))
            or type(error).__module__.split(".")[0] in modules
            or isinstance(error, ValueError) and str(error).startswith("Bad Request"))


def is_refusal(error: BaseException) -> bool:
    """Whether the store refused a request for want of a right or of valid credentials."""
    return any(word in text_of(error) for word in (
        "Forbidden", "403", "401", "AccessDenied", "Access Denied", "Credentials", "credentials",
        "ExpiredToken", "PERMISSION_DENIED", "UNAUTHENTICATED", "expired"))


def text_of(error: BaseException) -> str:
    """The messages of an exception and of those that caused it."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(texts) < 4:
        texts.append(f"{type(seen).__name__}: {seen}")
        seen = seen.__cause__ or seen.__context__
    return " ".join(texts)


def cause(error: BaseException) -> str:
    """Why a request failed, in a few words."""
    text = text_of(error)
    if re.search(r"xpired|Invalid Credentials|\b401\b|UNAUTHENTICATED|RefreshError", text):
        return "the store does not accept the credentials, or these have expired (401)"
    if re.search(r"[Nn]o ?[Cc]redentials|DefaultCredentialsError|Unable to locate cred", text):
        return "there are no credentials for the store"
    if re.search(r"Forbidden|\b403\b|Access ?Denied|PERMISSION_DENIED", text):
        return "these credentials do not have the right (403)"
    if re.search(r"NoSuchBucket|bucket does not exist", text):
        return "there is no such bucket"
    if found := re.search(r"\b(429|SlowDown|Too Many Requests|RESOURCE_EXHAUSTED)\b", text):
        return f"the store asks for fewer requests (429); gave up after {ATTEMPTS} attempts"
    if found := re.search(r"\b(50[0-4])\b", text):
        return f"the store answers {found[1]}; gave up after {ATTEMPTS} attempts"
    if re.search(r"InternalError|ServiceUnavailable|UNAVAILABLE|ProxyError", text):
        return f"the store is not available; gave up after {ATTEMPTS} attempts"
    if re.search(r"[Cc]onnect|[Tt]imeout|[Dd]isconnected|payload|DEADLINE", text):
        return f"the store cannot be reached; gave up after {ATTEMPTS} attempts"
    # TensorStore names what it did from the outside to the inside.
    inner = re.sub(r" *\[.*", "", str(error).replace("\n", " "))
    return f"{type(error).__name__}: {inner[-300:]}"


@contextlib.contextmanager
def local_file(name: str) -> Iterator[Path]:
    """Yields a path of a temporary local file, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lm2_jax_") as folder:
        yield Path(folder) / name
