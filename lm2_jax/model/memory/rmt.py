"""Recurrent Memory Transformer (arXiv 2207.06881), its decoder form.

A segment is read between two copies of the memory tokens: those in front are read by all behind
them, those at the end see the whole segment, and what the model makes of them is the memory of
the next segment.
"""

import jax
import jax.numpy as jnp
from flax import struct

from lm2_jax.config import ModelConfig
from lm2_jax.model.memory.base import MemoryTokens


@struct.dataclass
class RecurrentState:
    """Attributes:
      tokens_1BMD: float32, the memory of the last segment.
      begun_1B: bool, False where there is none yet: the learnt vectors stand there.
    """

    tokens_1BMD: jax.Array
    begun_1B: jax.Array


class RecurrentTokens(MemoryTokens):
    """[m, segment, m] -> m: the same vectors at both ends, the latter come out as the next m."""

    before = True

    def vectors(self, state: RecurrentState, batch_size: int) -> jax.Array:
        return jnp.where(state.begun_1B[0, :, None, None], state.tokens_1BMD[0],
                         self.embedding_MD[None])

    def next_state(self, hidden_BSD: jax.Array, state: RecurrentState, valid_BT: jax.Array
             ) -> RecurrentState:
        written_BMD = hidden_BSD[:, -self.config.memory.num_slots:].astype(jnp.float32)
        wrote_B = valid_BT.any(axis=1)
        tokens_BMD = jnp.where(wrote_B[:, None, None], written_BMD, state.tokens_1BMD[0])
        return RecurrentState(tokens_1BMD=tokens_BMD[None], begun_1B=state.begun_1B | wrote_B[None])


def init_state(config: ModelConfig, batch_size: int) -> RecurrentState:
    """No memory yet in any row."""
    shape = (1, batch_size, config.memory.num_slots, config.embed_dim)
    return RecurrentState(tokens_1BMD=jnp.zeros(shape, jnp.float32),
                          begun_1B=jnp.zeros((1, batch_size), bool))


def flops(config: ModelConfig) -> float:
    """Forward FLOPs a token and block: none but those of the memory tokens."""
    return 0.0
