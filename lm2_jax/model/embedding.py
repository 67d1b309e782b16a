"""Token embeddings: the lookup, and the product with the unembedding matrix."""

import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import unshard
from lm2_jax.partition import constrain
from lm2_jax.types import Params


@jax.custom_vjp
def lookup(params_VD: jax.Array, embedding_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """Returns the embeddings of tokens, [B, T, D] in the compute dtype.

    Args:
      params_VD: the embedding parameters, float32; they receive the gradient.
      embedding_VD: the same matrix in the compute dtype; it receives no gradient.
      tokens_BT: int32.

    The gradient is summed over the tokens in float32: in bfloat16 a sum of equal numbers stops
    growing after 256 of them.
    """
    return embedding_VD[tokens_BT]


def _lookup_forward(params_VD, embedding_VD, tokens_BT):
    return lookup(params_VD, embedding_VD, tokens_BT), (tokens_BT, params_VD.shape)


def _lookup_backward(residuals, gradient_BTD):
    tokens_BT, shape = residuals
    gradient_VD = jnp.zeros(shape, jnp.float32).at[tokens_BT].add(gradient_BTD.astype(jnp.float32))
    return constrain(gradient_VD, "vocab", "embed"), None, None


lookup.defvjp(_lookup_forward, _lookup_backward)


def unembedding(config: ModelConfig, variables: Params) -> jax.Array:
    """Returns the matrix that `unembed` takes, [V, D] in the compute dtype.

    It is the embedding if `tie_embeddings` is set, else the transposed kernel of `lm_head`.
    """
    params = variables["params"]
    if config.tie_embeddings:
        return unshard(params["embedding"].astype(config.dtype), ("vocab", "embed"))
    kernel_DV = params["lm_head"]["kernel"].astype(config.dtype)
    return unshard(kernel_DV, ("embed", "vocab")).T


def unembed(x_BTD: jax.Array, matrix_VD: jax.Array) -> jax.Array:
    """Returns the logits x E^T, [B, T, V] float32; the product is taken in the compute dtype."""
    logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, matrix_VD).astype(jnp.float32)
    return constrain(logits_BTV, "act_batch", "act_len", "act_vocab")
