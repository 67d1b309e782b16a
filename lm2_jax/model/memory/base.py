"""What every memory is: hooks of a block, and tokens at the ends of a segment."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import partitioned


class BlockMemory(nn.Module):
    """The memory of one block, called in this order; a kind overrides what it needs.

    All tokens read the state as it stood when the segment began; what `write` and `post_block`
    return is seen by the next one.
    """

    config: ModelConfig

    def pre_block(self, x_BSD: jax.Array, state: Any) -> jax.Array:
        """The stream as the block shall see it."""
        return x_BSD

    def read(self, a_BSD: jax.Array, state: Any) -> jax.Array | float:
        """What is added to the stream beside attention, of the same normalised input."""
        return 0.0

    def write(self, x_BSD: jax.Array, state: Any, valid_BS: jax.Array) -> Any:
        """The state after attention."""
        return state

    def post_block(self, x_BSD: jax.Array, state: Any, valid_BS: jax.Array) -> Any:
        """The state after the block."""
        return state


class MemoryTokens(nn.Module):
    """`num_slots` learnt vectors that stand before a segment, behind it, or both.

    Attributes:
      before, after: whether memory tokens stand there.
    """

    config: ModelConfig
    before = False
    after = True

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.embed_dim**-0.5)
        self.embedding_MD = self.param("embedding", partitioned(init, ("memory_slots", "embed")),
                                       (c.memory.num_slots, c.embed_dim), jnp.float32)

    def vectors(self, state: Any, batch_size: int) -> jax.Array:
        """What stands there, [B, M, D] float32."""
        return jnp.broadcast_to(self.embedding_MD[None], (batch_size, *self.embedding_MD.shape))

    def wrap(self, x_BTD: jax.Array, valid_BT: jax.Array, state: Any
                 ) -> tuple[jax.Array, jax.Array]:
        """The segment with its memory tokens, [B, S, D], and which of S hold a token."""
        tokens_BMD = self.vectors(state, x_BTD.shape[0]).astype(x_BTD.dtype)
        valid_BM = jnp.ones(tokens_BMD.shape[:2], bool)
        return (jnp.concatenate(self._around(x_BTD, tokens_BMD), axis=1),
                jnp.concatenate(self._around(valid_BT, valid_BM), axis=1))

    def positions(self, num_tokens: int) -> np.ndarray:
        """int [S]: where each stands; those behind stand at the same places however short the
        segment is."""
        M, T = self.config.memory.num_slots, self.config.segment_length
        first = M if self.before else 0
        return np.concatenate([np.arange(first + num_tokens),
                               first + T + np.arange(M if self.after else 0)])

    def unwrap(self, x_BSD: jax.Array) -> jax.Array:
        """The segment's own part, [B, T, D]."""
        M = self.config.memory.num_slots
        return x_BSD[:, M if self.before else 0:x_BSD.shape[1] - (M if self.after else 0)]

    def next_state(self, hidden_BSD: jax.Array, state: Any, valid_BT: jax.Array) -> Any:
        """The state after the segment; `hidden` is the last norm's output."""
        return state

    def _around(self, middle: jax.Array, end: jax.Array) -> list[jax.Array]:
        return [end] * self.before + [middle] + [end] * self.after
