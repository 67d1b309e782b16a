"""How the tokens of a question read the memory, before and after a fact was written.

Shape suffixes: P blocks with a memory, N heads, T tokens, M slots.
"""

from dataclasses import dataclass

import numpy as np

from lm2_jax.analysis import reading
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.types import Params, State


@dataclass(frozen=True)
class Maps:
    """The read attention of one head, each row of a map sums to 1.

    Attributes:
      block, head: whose maps these are, from 0.
      change: half the summed difference of the maps before and after, the mean over tokens, of
        every block and head [P, N]: 0 for equal maps, 1 for maps that have nothing in common.
      maps: [T, M] by the name of the bank that is read.
    """

    block: int
    head: int
    change: np.ndarray
    maps: dict[str, np.ndarray]


def read_maps(model: LanguageModel, params: Params, banks: dict[str, State],
              tokens: np.ndarray, number: int, pad_id: int, first: int,
              block: int | None = None, head: int | None = None) -> Maps | None:
    """Reads the same tokens with each bank.

    Args:
      banks: states by name; the first two are those before and after the fact.
      tokens: int32 [L], of the whole text.
      number: the segment that is read.
      first: the first of its tokens that is shown.
      block, head: None takes the head whose map changes most.

    Returns:
      The maps of the valid tokens from `first` on; None if the memory has no read attention.

    Raises:
      UserError: there is no such block or head.
    """
    T = model.config.segment_length
    padded, valid = reading.segment(tokens, number, T, pad_id)
    maps = {}
    for name, state in banks.items():
        found = reading.sown(model, params, state, padded, valid)[1]
        if "read_attention" not in found:
            return None
        maps[name] = np.asarray(found["read_attention"][:, 0, :, first:valid.sum()], np.float64)
    before, after = list(maps.values())[:2]
    change = np.abs(after - before).sum(axis=3).mean(axis=2) / 2
    for name, index, size in (("block", block, len(change)), ("head", head, change.shape[1])):
        if index is not None and not 0 <= index < size:
            raise UserError(f"--{name} is {index}; it must be 0 to {size - 1}")
    allowed = np.full(change.shape, -1.0)
    wanted = (slice(None) if block is None else block), (slice(None) if head is None else head)
    allowed[wanted] = change[wanted]
    block, head = (int(i) for i in np.unravel_index(allowed.argmax(), change.shape))
    return Maps(block, head, change, {name: map[block, head] for name, map in maps.items()})
