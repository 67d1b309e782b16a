"""Token embeddings: the lookup, and the matrix that makes logits of hidden states."""

import jax
import jax.numpy as jnp

from lm2_jax.config import ModelConfig
from lm2_jax.model.linear import gathered
from lm2_jax.partition import constrain
from lm2_jax.types import Params


@jax.custom_vjp
def lookup(params_VD: jax.Array, embedding_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """The tokens' rows of `embedding_VD`, the parameters in the compute dtype; [B, T, D].

    The gradient goes to the float32 parameters and is summed over the tokens in float32: in
    bfloat16 a sum of equal numbers stops growing after 256 of them.
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
    """The matrix of `unembed`, [V, D] in the compute dtype."""
    params = variables["params"]
    if config.tie_embeddings:
        return gathered(params["embedding"].astype(config.dtype), ("vocab", "embed"))
    kernel_DV = params["lm_head"]["kernel"].astype(config.dtype)
    return gathered(kernel_DV, ("embed", "vocab")).T


def unembed(x_BTD: jax.Array, matrix_VD: jax.Array) -> jax.Array:
    """The logits of hidden states, [B, T, V] float32."""
    logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, matrix_VD).astype(jnp.float32)
    return constrain(logits_BTV, "act_batch", "act_len", "act_vocab")
