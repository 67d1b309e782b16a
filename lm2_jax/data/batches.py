"""Samples packed into rows, and batches made ahead of time."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from lm2_jax.data import workers
from lm2_jax.types import Batch


def pack(samples: Sequence, starts: Sequence[int], num_segments: int,
         segment_length: int, pad_id: int, loss_on_all: float) -> Batch:
    """Packs samples into one row; every field of the result is [L] or [S].

    Args:
      samples: each has `tokens`, int32, and `answer`, bool, the tokens of answers.
      starts: the segment at which each sample begins; the rest of the row is padding.
      loss_on_all: loss weight of the tokens that are not answers.
    """
    L = num_segments * segment_length
    row = Batch(tokens_BL=np.full(L, pad_id, np.int32), targets_BL=np.full(L, pad_id, np.int32),
                loss_weight_BL=np.zeros(L, np.float32), answer_BL=np.zeros(L, bool),
                valid_BL=np.zeros(L, bool), reset_BS=np.zeros(num_segments, bool))
    for sample, start in zip(samples, starts, strict=True):
        first, n = start * segment_length, len(sample.tokens)
        row.tokens_BL[first:first + n] = sample.tokens
        row.valid_BL[first:first + n] = True
        row.reset_BS[start] = True
        row.targets_BL[first:first + n - 1] = sample.tokens[1:]
        row.answer_BL[first:first + n - 1] = sample.answer[1:]
        row.loss_weight_BL[first:first + n - 1] = np.where(sample.answer[1:], 1.0, loss_on_all)
    return row


def iterate(source: workers.Source, first_step: int, *, num_workers: int = 0) -> Iterator[Batch]:
    """Yields the batches of the steps after `first_step`, made ahead of time.

    The position is the step alone, so the number of workers changes no batch.

    Args:
      first_step: number of steps already done.
      num_workers: worker processes that make batches; 0 = none.

    Raises:
      UserError: if a worker process dies; the message gives the likely cause.
    """
    def dataset(source) -> grain.IterDataset:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        return grain.MapDataset.source(source)[first_step:].to_iter_dataset(options)

    if num_workers:
        return workers.iterate(source, dataset, num_workers)
    return iter(dataset(source))
