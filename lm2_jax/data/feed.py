"""Moves batches to devices: each process provides the rows that its own devices hold."""

import collections
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding

from lm2_jax.types import Batch


def local_rows(sharding: NamedSharding, batch_size: int) -> tuple[int, ...]:
    """Indices of the rows of the global batch that this process's devices hold, ascending."""
    rows = set()
    for index in sharding.addressable_devices_indices_map((batch_size, 1)).values():
        assert index is not None  # which jax's type allows
        rows.update(range(*index[0].indices(batch_size)))
    return tuple(sorted(rows))


def to_devices(batch: Batch, rows: tuple[int, ...], batch_size: int,
               sharding: NamedSharding) -> Batch:
    """Returns the global batch as arrays on devices.

    Args:
      batch: NumPy arrays [len(rows), ...]: the rows that this process has.
      rows: their indices in the global batch (`local_rows`).
      batch_size: rows of the global batch.
      sharding: of the rows; the batch axes of its mesh may span processes or not.

    Returns:
      Arrays [batch_size, ...].
    """
    position = {row: i for i, row in enumerate(rows)}

    def one(local: np.ndarray) -> jax.Array:
        def part(index):
            wanted = range(*index[0].indices(batch_size))
            return local[[position[row] for row in wanted]][(slice(None), *index[1:])]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, part)

    return jax.tree.map(one, batch)


def ahead(batches: Iterator[Batch], batch_sizes: Iterable[int], rows: Mapping[int, tuple[int, ...]],
          sharding: NamedSharding, depth: int = 2) -> Iterator[Batch]:
    """Yields batches on devices, transferring `depth` batches ahead of the one in use.

    Args:
      batches: with the rows of this process.
      batch_sizes: rows of the global batch, for each batch.
      rows: indices of this process's rows (`local_rows`), by batch size.
      sharding: of the rows.
      depth: number of batches.
    """
    queue = collections.deque()
    for batch, size in zip(batches, batch_sizes, strict=False):
        queue.append(to_devices(batch, rows[size], size, sharding))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue
