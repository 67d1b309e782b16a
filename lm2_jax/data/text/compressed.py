"""Opens files that may be compressed: .gz, and .zst where pyarrow is installed."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

SUFFIXES = (".gz", ".zst")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a file to read its decompressed bytes.

    Raises:
      UserError: pyarrow is needed and not installed, or, while the file is read, its compressed
        bytes are damaged or cut short.
    """
    try:
        with _open(path) as file:
            yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        if path.suffix != ".zst" or error.errno is not None:
            raise
        raise UserError(f"{path} is not a whole zstd file: {error}") from None


def _open(path: Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return cast(io.BufferedReader,
                    gzip.open(path.open("rb") if paths.in_bucket(path) else path, "rb"))
    if path.suffix == ".zst":
        try:
            import pyarrow
        except ImportError:
            raise UserError(f"reading {path} needs pyarrow: pip install 'lm2_jax[parquet]'"
                            ) from None
        source = path.open("rb") if paths.in_bucket(path) else str(path)
        stream = pyarrow.input_stream(source, compression="zstd")
        return io.BufferedReader(cast(io.RawIOBase, cast(BinaryIO, stream)))
    return path.open("rb")


def without_suffix(path: Path) -> Path:
    """The path without .gz or .zst: its suffix then says what the file holds."""
    return path.with_suffix("") if path.suffix in SUFFIXES else path
