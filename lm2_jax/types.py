"""The pytrees that cross module borders.

Letters: B batch rows, T tokens of a segment, S segments, L tokens of a sequence, D embed_dim,
K kv heads, H head_dim, V vocabulary, M memory slots, W attention window, C places of a cache,
P memory blocks, Q blocks.
"""

from typing import Any, Protocol

import jax
import numpy as np
from flax import struct

Array = jax.Array
Params = Any
"""A nested dict of arrays, as flax.linen makes it."""


class Tokens(Protocol):
    """Token ids: an int32 array, or an object whose slices are such arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@struct.dataclass
class Window:
    """Keys and values of the last `attention_window` tokens, before rotation.

    Attributes:
      key_QBWKH: keys of every block, in the compute dtype.
      value_QBWKH: values of every block, in the compute dtype.
      valid_BW: bool, which places hold a token; the newest is the last.
    """

    key_QBWKH: Array
    value_QBWKH: Array
    valid_BW: Array


@struct.dataclass
class State:
    """All that crosses from one segment to the next (an empty field is None).

    Attributes:
      memory: what the memory of the configured kind carries; for `lm2` the banks
        [P, B, M, D], float32 or what `memory.bank_dtype` says.
      window: keys and values of the last tokens, if `attention_window` > 0.
    """

    memory: Any
    window: Window | None


@struct.dataclass
class Running:
    """A segment that is read token by token: what the next token needs of those before it.

    The C places of its cache are for the memory tokens before the segment, then the window, then
    the segment's tokens.

    Attributes:
      key_QBKCH: rotated keys of every block, in the compute dtype.
      value_QBKCH: values of every block, in the compute dtype.
      valid_BC: bool, which places hold a token.
      memory: what the `step` of every block's memory takes; None without one.
      length_B: int32, how many tokens of the segment have been read.
      before: number of places before those of the segment; static.
    """

    key_QBKCH: Array
    value_QBKCH: Array
    valid_BC: Array
    memory: Any
    length_B: Array
    before: int = struct.field(pytree_node=False)


@struct.dataclass
class Output:
    """What a model call returns.

    Attributes:
      logits: [B, T, V] float32 ([B, L, V] from `apply_segments`); None if not asked for.
      state: the state after the tokens; None where a schedule has taken it.
      hidden: [B, T, D] in the compute dtype, what `unembed` makes logits of; only in their place.
    """

    logits: Array | None
    state: Any
    hidden: Array | None = None


@struct.dataclass
class Batch:
    """One step of data: B rows of S segments of T tokens, every field [B, S*T] or [B, S].

    Attributes:
      tokens_BL: int32.
      targets_BL: int32, the token that follows in the same sample.
      loss_weight_BL: float32, 0 where no loss is taken.
      answer_BL: bool, True where the target belongs to an answer.
      valid_BL: bool, False for padding.
      reset_BS: bool, True where a segment begins a new sample.
    """

    tokens_BL: Any
    targets_BL: Any
    loss_weight_BL: Any
    answer_BL: Any
    valid_BL: Any
    reset_BS: Any
