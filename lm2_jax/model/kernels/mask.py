"""Which keys a query sees, without an array of queries by keys."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Mask:
    """Query t of T sees key s of S where `valid_BS` and, if causal, s <= t + S - T.

    So the queries of a causal mask are the last T of the keys. If the key at the place of such a
    query is not valid, what the query gets is finite but unspecified. A kernel takes the mask as
    lengths or as segment ids; `dense` is for those that take neither.

    Attributes:
      valid_BS: bool, the keys that may be seen; None for all of them.
      causal: whether a query sees no later key; static.
    """

    valid_BS: jax.Array | None = None
    causal: bool = struct.field(pytree_node=False, default=False)

    def dense(self, num_queries: int, num_keys: int) -> jax.Array | None:
        """Returns the mask as bool [B, T, S], or [1, T, S] and [B, 1, S] where that is the same;
        None if every query sees every key."""
        T, S = num_queries, num_keys
        seen = None if self.valid_BS is None else self.valid_BS[:, None, :]
        if self.causal:
            causal_1TS = jnp.tril(jnp.ones((1, T, S), bool), S - T)
            seen = causal_1TS if seen is None else causal_1TS & seen
        return seen
