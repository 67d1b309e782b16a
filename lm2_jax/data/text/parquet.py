"""Columns of text in parquet files, read in parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

_BUFFER = 2**20  # bytes of a column read at a time


def rows(path: Path, columns: Sequence[str], batch_rows: int, *, optional: Sequence[str] = ()
         ) -> Iterator[dict]:
    """Yields the rows as {column: text or None}.

    Args:
      columns: columns of strings that the file must have.
      batch_rows: rows in memory at a time.
      optional: columns that are read if the file has them.

    Raises:
      ValueError: pyarrow is not installed, the file cannot be read, or it lacks a column.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow: pip install 'lm2_jax[parquet]'") from None
    try:
        source = path.open("rb") if paths.in_bucket(path) else path
        with parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER) as file:
            schema = file.schema_arrow
            strings = (pyarrow.string(), pyarrow.large_string())
            for name in columns:
                if name not in schema.names or schema.field(name).type not in strings:
                    raise UserError(f"{path} has no column {name!r} of strings, only "
                                     f"{schema.names}")
            there = [*columns, *(name for name in optional if name in schema.names)]
            batches = file.iter_batches(batch_rows, columns=there)
            for batch in map(pyarrow.RecordBatch.to_pylist, batches):
                yield from batch
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable parquet file: {reason}") from None
    finally:
        pyarrow.default_memory_pool().release_unused()  # else the pool keeps a long text's memory
