"""The choice of the next token from its logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: the most likely one."""

    repetition_penalty: float = 1.0


def sample(logits_BV: jax.Array, sampling: Sampling, seed_B: jax.Array, index_B: jax.Array,
           seen_BV: jax.Array | None) -> jax.Array:
    """Returns the next token of each row, int32 [B]."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
