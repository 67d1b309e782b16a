"""Batches onto devices: each process hands over exactly the rows that its devices hold."""

import collections
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding

from lm2_jax.types import Batch


def local_rows(sharding: NamedSharding, batch_size: int) -> tuple[int, ...]:
    """The rows of the global batch that this process's devices hold, in order."""
    rows = set()
    for index in sharding.addressable_devices_indices_map((batch_size, 1)).values():
        assert index is not None  # which jax's type allows
        rows.update(range(*index[0].indices(batch_size)))
    return tuple(sorted(rows))


def to_devices(batch: Batch, rows: tuple[int, ...], batch_size: int,
               sharding: NamedSharding) -> Batch:
    """A global batch of this process's rows.

    Args:
      batch: arrays [len(rows), ...] of the rows `rows` of the global batch.
      sharding: of the rows; any mesh, whether or not its batch axes span processes.
    """
    place = {row: i for i, row in enumerate(rows)}

    def one(local: np.ndarray) -> jax.Array:
        def part(index):
            wanted = range(*index[0].indices(batch_size))
            return local[[place[row] for row in wanted]][(slice(None), *index[1:])]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, part)

    return jax.tree.map(one, batch)


def ahead(batches: Iterator[Batch], batch_sizes: Iterable[int], rows: Mapping[int, tuple[int, ...]],
          sharding: NamedSharding, depth: int = 2) -> Iterator[Batch]:
    """Device batches, `depth` of them on their way while one is used.

    Args:
      batches: of this process's rows.
      batch_sizes: rows of the global batch, for each batch.
      rows: for each size the rows that this process has (`local_rows`).
    """
    queue = collections.deque()
    for batch, size in zip(batches, batch_sizes, strict=False):
        queue.append(to_devices(batch, rows[size], size, sharding))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue
