"""Columns of text in Arrow files, as Hugging Face's `save_to_disk` writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lm2_jax.errors import UserError
from lm2_jax.runtime import paths


def rows(path: Path, columns: Sequence[str]) -> Iterator[dict]:
    """Yields the rows as {column: value}, a record batch in memory at a time.

    Args:
      path: of a file in Arrow's streaming format or its file format.
      columns: those of them that the file has are read.

    Raises:
      UserError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow: pip install 'lm2_jax[parquet]'") from None
    try:
        with (pyarrow.PythonFile(path.open("rb")) if paths.in_bucket(path)
              else pyarrow.memory_map(str(path))) as file:
            try:
                batches = iter(ipc.open_stream(file))
            except pyarrow.ArrowInvalid:
                file.seek(0)
                whole = ipc.open_file(file)
                batches = map(whole.get_batch, range(whole.num_record_batches))
            for batch in batches:
                there = [name for name in columns if name in batch.schema.names]
                yield from batch.select(there).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Arrow file: {str(error).splitlines()[0]}"
                        ) from None
