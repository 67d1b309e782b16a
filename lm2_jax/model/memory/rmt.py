"""Recurrent Memory Transformer (arXiv 2207.06881), in its decoder-only form.

The same memory tokens are put before and after a segment. All tokens attend to those before it;
those after it attend to the whole segment, and their outputs are the memory tokens of the next
segment.
"""

import jax
import jax.numpy as jnp
from flax import struct

from lm2_jax.config import ModelConfig
from lm2_jax.model.memory.base import MemoryTokens


@struct.dataclass
class RecurrentState:
    """The state; its first axis is the one that other memories have for their blocks.

    Attributes:
      tokens_1BMD: float32, the memory tokens that the last segment returned.
      written_1B: bool, False for rows that have read no segment yet; their memory tokens are the
        learnt ones.
    """

    tokens_1BMD: jax.Array
    written_1B: jax.Array


class RecurrentTokens(MemoryTokens):
    """[m, segment, m] -> [.., .., m']: m' are the memory tokens of the next segment."""

    before = True

    def vectors(self, state: RecurrentState, batch_size: int) -> jax.Array:
        return jnp.where(state.written_1B[0, :, None, None], state.tokens_1BMD[0],
                         self.embedding_MD[None])

    def next_state(self, hidden_BSD: jax.Array, state: RecurrentState, valid_BT: jax.Array
                   ) -> RecurrentState:
        output_BMD = hidden_BSD[:, -self.config.memory.num_slots:].astype(jnp.float32)
        writes_B = valid_BT.any(axis=1)
        tokens_BMD = jnp.where(writes_B[:, None, None], output_BMD, state.tokens_1BMD[0])
        return RecurrentState(tokens_1BMD=tokens_BMD[None],
                              written_1B=state.written_1B | writes_B[None])


def init_state(config: ModelConfig, batch_size: int) -> RecurrentState:
    """Returns the state before the first segment."""
    shape = (1, batch_size, config.memory.num_slots, config.embed_dim)
    return RecurrentState(tokens_1BMD=jnp.zeros(shape, jnp.float32),
                          written_1B=jnp.zeros((1, batch_size), bool))


def flops(config: ModelConfig) -> float:
    """Returns 0: running the memory tokens through the blocks is counted elsewhere."""
    return 0.0
