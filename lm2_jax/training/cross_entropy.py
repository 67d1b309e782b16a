"""The cross-entropy of hidden states, chunk by chunk, so that few logits are in memory at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm2_jax import partition
from lm2_jax.model.embedding import unembed

LOGITS = 2**22  # the most of a chunk that has several segments


class Losses(NamedTuple):
    """What is known of each row and token beside the sum.

    Attributes:
      row_B: cross-entropy of each row, weighted, in nats.
      right_SBT: bool, True where no token is more likely than the target.
    """

    row_B: jax.Array
    right_SBT: jax.Array


def cross_entropy(hidden_SBTD: jax.Array, matrix_VD: jax.Array, targets_SBT: jax.Array,
                  weight_SBT: jax.Array, chunk_tokens: int = 0) -> tuple[jax.Array, Losses]:
    """Returns the weighted cross-entropy in nats, summed over all tokens, and `Losses`.

    Only the sum has a gradient. It is computed in the forward pass, from the logits of each chunk,
    so that the backward pass does not compute them again. If no gradient is asked for, only the
    logits are computed.

    Args:
      hidden_SBTD: final hidden states of S segments, in the compute dtype.
      matrix_VD: from `unembedding`. Its gradient is summed over the chunks in float32.
      targets_SBT: int32.
      weight_SBT: float32, 0 for tokens that have no part in the loss.
      chunk_tokens: tokens of each row in a chunk, a divisor of T; 0 = those of a segment, or of as
        many segments as have no more than LOGITS logits.
    """
    S, B, T = targets_SBT.shape
    size = chunk_tokens or T * max(n for n in range(1, S + 1) if S % n == 0 and (
        n == 1 or n * B * T * len(matrix_VD) <= LOGITS))
    xs = tuple(_chunks(x, size) for x in (hidden_SBTD, targets_SBT, weight_SBT))
    total, row_CB, right_CBX = _summed(*xs, matrix_VD)
    return total, Losses(jnp.sum(row_CB, axis=0), _segments(right_CBX, S, T))


@jax.custom_vjp
def _summed(hidden_CBXD, targets_CBX, weight_CBX, matrix_VD):
    """Returns (the sum, row_CB, right_CBX) over C chunks of X tokens of each row."""
    def chunk(_, xs):
        x_BXD, targets_BX, weight_BX = xs
        return None, _of_chunk(x_BXD, targets_BX, weight_BX, matrix_VD)[:2]

    row_CB, right_CBX = _scan(chunk, None, (hidden_CBXD, targets_CBX, weight_CBX))[1]
    return jnp.sum(row_CB), row_CB, right_CBX


def _forward(hidden_CBXD, targets_CBX, weight_CBX, matrix_VD):
    def chunk(total_DV, xs):
        x_BXD, targets_BX, weight_BX = xs
        row_B, right_BX, p_BXV = _of_chunk(x_BXD, targets_BX, weight_BX, matrix_VD)
        is_target_BXV = targets_BX[..., None] == jax.lax.broadcasted_iota(
            targets_BX.dtype, p_BXV.shape, 2)
        gradient_BXV = jnp.where(weight_BX[..., None] > 0,
                                 (p_BXV - is_target_BXV) * weight_BX[..., None], 0.0)
        gradient_BXV = gradient_BXV.astype(x_BXD.dtype)
        of_x_BXD = jnp.einsum("BXV,VD->BXD", gradient_BXV, matrix_VD)
        # The other order would transpose all of gradient_BXV on a CPU.
        of_matrix_DV = jnp.einsum("BXD,BXV->DV", x_BXD, gradient_BXV)
        total_DV += of_matrix_DV.astype(jnp.float32)
        return partition.constrain(total_DV, "embed", "vocab"), (row_B, right_BX, of_x_BXD)

    zeros_DV = jnp.zeros(matrix_VD.shape[::-1], jnp.float32)
    total_DV, (row_CB, right_CBX, of_x_CBXD) = _scan(
        chunk, zeros_DV, (hidden_CBXD, targets_CBX, weight_CBX))
    total_VD = jax.lax.optimization_barrier(total_DV).T  # else XLA puts back the other order
    return (jnp.sum(row_CB), row_CB, right_CBX), (
        of_x_CBXD, total_VD.astype(matrix_VD.dtype))


def _backward(gradients, cotangents):
    scale = cotangents[0]
    of_x_CBXD, of_matrix_VD = ((scale * a).astype(a.dtype) for a in gradients)
    return of_x_CBXD, None, None, of_matrix_VD


_summed.defvjp(_forward, _backward)


def _of_chunk(x_BXD, targets_BX, weight_BX, matrix_VD):
    """Returns (weighted loss of each row, whether the target is most likely, probabilities)."""
    logits_BXV = unembed(x_BXD, matrix_VD)
    largest_BX1 = jnp.max(logits_BXV, axis=-1, keepdims=True)
    power_BXV = jnp.exp(logits_BXV - largest_BX1)
    sum_BX1 = jnp.sum(power_BXV, axis=-1, keepdims=True)
    target_BX = jnp.take_along_axis(logits_BXV, targets_BX[..., None], axis=-1)[..., 0]
    loss_BX = jnp.log(sum_BX1[..., 0]) + largest_BX1[..., 0] - target_BX
    row_B = jnp.sum(jnp.where(weight_BX > 0, loss_BX * weight_BX, 0.0), axis=1)
    # An argmax would take longer than the product on a CPU; it differs where two are as likely.
    return row_B, target_BX >= largest_BX1[..., 0], power_BXV / sum_BX1


def _scan(body, carry, xs):
    """`jax.lax.scan`, without a loop for one chunk."""
    if len(xs[0]) > 1:
        return jax.lax.scan(body, carry, xs)
    carry, ys = body(carry, tuple(x[0] for x in xs))
    return carry, tuple(y[None] for y in ys)


def _chunks(a_SBT: jax.Array, size: int) -> jax.Array:
    """[S, B, T, ...] as [S T / size, B, size, ...]: parts of a segment, or several segments."""
    S, B, T, *rest = a_SBT.shape
    if size <= T:
        a = _by_rows(a_SBT.reshape(S, B, T // size, size, *rest), 1).swapaxes(1, 2)
        return _by_rows(_by_rows(a, 2).reshape(-1, B, size, *rest), 1)
    return _by_rows(a_SBT.reshape(-1, size // T, B, T, *rest).swapaxes(1, 2).reshape(
        -1, B, size, *rest), 1)


def _by_rows(a: jax.Array, axis: int) -> jax.Array:
    """Constrains an array to be split along its axis of rows alone; else the partitioner gathers
    all rows for a reshape."""
    return partition.constrain(a, *("act_batch" if n == axis else None for n in range(a.ndim)))


def _segments(a_CBX: jax.Array, S: int, T: int) -> jax.Array:
    """The inverse of `_chunks`: [C, B, X] as [S, B, T]."""
    _, B, size = a_CBX.shape
    if size <= T:
        return a_CBX.reshape(S, T // size, B, size).swapaxes(1, 2).reshape(S, B, T)
    return a_CBX.reshape(-1, B, size // T, T).swapaxes(1, 2).reshape(S, B, T)
