"""How the next token is chosen from the logits: pure functions, in the order of transformers."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lm2_jax.errors import UserError

# What each value must be, and whether it is.
_RULES = {
    "temperature": ("0 (the most likely token) or more", lambda x: 0 <= x < float("inf")),
    "top_k": ("0 (off) or more", lambda x: x >= 0 and x == int(x)),
    "top_p": ("more than 0 and at most 1 (off)", lambda x: 0 < x <= 1),
    "min_p": ("0 (off) or more, and at most 1", lambda x: 0 <= x <= 1),
    "repetition_penalty": ("more than 0; 1 is off", lambda x: 0 < x < float("inf")),
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. It is hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token, whatever the next three are.
      top_k: keeps the k most likely tokens; 0 keeps all.
      top_p: keeps the most likely tokens whose probabilities add up to p or more; 1 keeps all.
      min_p: keeps the tokens that are at least p times as likely as the most likely one.
      repetition_penalty: divides the positive logits of tokens that have occurred, and multiplies
        their negative ones.
      vocab_size: number of the tokenizer's tokens. Larger ids, which only pad a model's vocabulary,
        are never chosen; 0 allows every id.

    Raises:
      UserError: if a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    vocab_size: int = 0

    def __post_init__(self):
        for name, (rule, holds) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise UserError(f"{name} is {value}; it must be {rule}")


@functools.partial(jax.jit, static_argnames="sampling")
def sample(logits_BV: jax.Array, sampling: Sampling, seed_B: jax.Array, index_B: jax.Array,
           seen_BV: jax.Array | None = None) -> jax.Array:
    """Chooses a token for each row.

    A row's token depends on its own logits, seed and index alone, not on the rest of the batch.

    Args:
      logits_BV: float32.
      sampling: how to choose.
      seed_B: uint32, the seed of each row's text.
      index_B: int32, how many tokens of the row have been generated before.
      seen_BV: bool, which tokens have occurred; needed only for `repetition_penalty`.

    Returns:
      int32 [B].
    """
    if sampling.vocab_size:
        of_tokenizer_V = jnp.arange(logits_BV.shape[1]) < sampling.vocab_size
        logits_BV = jnp.where(of_tokenizer_V[None], logits_BV, -jnp.inf)
    if sampling.repetition_penalty != 1:
        if seen_BV is None:
            raise ValueError("a repetition penalty needs seen_BV")
        logits_BV = penalized(logits_BV, seen_BV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = filtered(logits_BV, sampling)
    keys_B = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(
        seed_B, index_B)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def penalized(logits_BV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Returns the logits with those of the tokens that have occurred made smaller."""
    smaller_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, smaller_BV, logits_BV)


def filtered(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns the logits over the temperature, -inf for the tokens that are not kept.

    Tokens that are exactly as likely as the last one that is kept are kept too.
    """
    logits_BV = logits_BV / sampling.temperature
    least_B1 = jnp.full((logits_BV.shape[0], 1), -jnp.inf)
    if 0 < sampling.top_k < logits_BV.shape[1] or sampling.top_p < 1:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        if 0 < sampling.top_k < logits_BV.shape[1]:
            least_B1 = sorted_BV[:, sampling.top_k - 1:sampling.top_k]
            sorted_BV = jnp.where(sorted_BV < least_B1, -jnp.inf, sorted_BV)
        if sampling.top_p < 1:
            p_BV = jax.nn.softmax(sorted_BV)
            before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV  # of the tokens that are more likely
            least_B1 = jnp.maximum(least_B1, jnp.min(
                jnp.where(before_BV < sampling.top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True))
    if sampling.min_p > 0:
        most_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
        least_B1 = jnp.maximum(least_B1, most_B1 + jnp.log(sampling.min_p))
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
