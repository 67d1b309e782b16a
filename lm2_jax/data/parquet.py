"""Columns of text in parquet files, read in parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path


def rows(path: Path, columns: Sequence[str], batch_rows: int) -> Iterator[dict]:
    """The rows, as {column: text or None}; so many are in memory at once.

    Raises:
      ValueError: pyarrow is not there, the file cannot be read, or has no such column of strings.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"reading {path} needs the package pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            strings = (pyarrow.string(), pyarrow.large_string())
            for name in columns:
                if name not in schema.names or schema.field(name).type not in strings:
                    raise ValueError(f"{path} has no column {name!r} of strings, only "
                                     f"{schema.names}")
            for batch in file.iter_batches(batch_rows, columns=list(columns)):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable parquet file: {reason}") from None
