"""The loss of a batch, segment by segment."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lm2_jax import partition
from lm2_jax.model import kernels
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.model.schedule import Segments, read_segments, split_segments
from lm2_jax.types import Batch, Params


@struct.dataclass
class LossSums:
    """Sums over the tokens of a batch; ratios are taken after all micro-batches.

    Attributes:
      loss: weighted cross-entropy, in nats.
      weight: of all tokens.
      hits: answers (runs of answer tokens) whose every token is the most likely one.
      answers: all of them.
      tokens: valid tokens.
      row_loss_B: weighted cross-entropy of each row, to name those that are not finite.
      writes: how far the memory was open to a segment, from 0 to 1, summed over rows, blocks and
        segments.
    """

    loss: jax.Array
    weight: jax.Array
    hits: jax.Array
    answers: jax.Array
    tokens: jax.Array
    row_loss_B: jax.Array
    writes: jax.Array


def loss_sums(model: LanguageModel, params: Params, batch: Batch, key: jax.Array, *,
              bptt_segments: int, remat_segments: bool, chunk_tokens: int = 0,
              deterministic: bool = False, window_from_segments: int = 0) -> LossSums:
    """The loss over all segments of a batch, from the initial state.

    Args:
      key: for dropout.
      bptt_segments: segments that the gradient goes back through; 0 = all.
      remat_segments: compute each segment again in the backward pass.
      chunk_tokens: tokens of a row whose logits are there at once; 0 = those of a segment.
      deterministic: without dropout.
      window_from_segments: in shorter batches attention does not see the window of earlier tokens.
    """
    c = model.config
    S, dropout = batch.reset_BS.shape[1], c.dropout > 0 and not deterministic
    split = functools.partial(split_segments, segment_length=c.segment_length)

    def finish(out, x):
        targets_BT, weight_BT, answer_BT, valid_BT = x
        if chunk_tokens:
            loss_BT, right_BT = _in_chunks(out.hidden, unembedding(c, params), targets_BT,
                                           chunk_tokens)
        else:
            assert out.logits is not None  # logits=True
            loss_BT, right_BT = _token_losses(out.logits, targets_BT)
        hits, answers = count_answers(right_BT, answer_BT)
        row_loss_B = jnp.sum(jnp.where(weight_BT > 0, loss_BT * weight_BT, 0.0), axis=1)
        return LossSums(
            loss=jnp.sum(row_loss_B), row_loss_B=row_loss_B,
            weight=jnp.sum(weight_BT), hits=hits, answers=answers,
            tokens=jnp.sum(valid_BT), writes=jnp.zeros(()))

    window = (S - 1) * c.segment_length if S >= window_from_segments else 0
    state = init_state(c, batch.tokens_BL.shape[0], window=window)
    segments = Segments(split(batch.tokens_BL), split(batch.valid_BL), batch.reset_BS.T)
    xs = tuple(map(split, (batch.targets_BL, batch.loss_weight_BL, batch.answer_BL,
                           batch.valid_BL)))
    _, sums, writes = read_segments(
        model, params, state, segments, finish, xs, logits=not chunk_tokens,
        bptt_segments=bptt_segments, remat=remat_segments, unroll=kernels.unroll(S),
        dropout=key if dropout else None, opens=True)
    return jax.tree.map(lambda a: jnp.sum(a, axis=0), sums).replace(writes=writes)


def _token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each token, and whether the target is the most likely one."""
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)
    return loss_BT, logits_BTV.argmax(axis=-1) == targets_BT


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _in_chunks(x_BTD: jax.Array, matrix_VD: jax.Array, targets_BT: jax.Array, size: int
               ) -> tuple[jax.Array, jax.Array]:
    """`_token_losses` of the logits of hidden states, `size` tokens of each row at a time.

    The backward pass computes the logits of each chunk again, so that no array of logits is
    larger than [B, size, V]. It sums the matrix's gradient over the chunks in float32.
    """
    def chunk(_, xs):
        x_BCD, targets_BC = xs
        return None, _token_losses(unembed(x_BCD, matrix_VD), targets_BC)

    _, losses = jax.lax.scan(chunk, None, _split((x_BTD, targets_BT), size))
    return _joined(losses)


def _in_chunks_forward(x_BTD, matrix_VD, targets_BT, size):
    return _in_chunks(x_BTD, matrix_VD, targets_BT, size), (x_BTD, matrix_VD, targets_BT)


def _in_chunks_backward(size, residuals, gradients):
    x_BTD, matrix_VD, targets_BT = residuals

    def chunk(total_VD, xs):
        x_BCD, targets_BC, gradient_BC = xs
        _, vjp = jax.vjp(lambda x, m: _token_losses(unembed(x, m), targets_BC)[0],
                         x_BCD, matrix_VD)
        of_x_BCD, of_matrix_VD = vjp(gradient_BC)
        total_VD += of_matrix_VD.astype(jnp.float32)
        return partition.constrain(total_VD, "vocab", "embed"), of_x_BCD

    zeros_VD = jnp.zeros(matrix_VD.shape, jnp.float32)
    total_VD, of_x = jax.lax.scan(
        chunk, zeros_VD, _split((x_BTD, targets_BT, gradients[0]), size), reverse=True)
    return _joined(of_x), total_VD.astype(matrix_VD.dtype), None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _split(tree, size: int):
    """[B, T, ...] as [T / size, B, size, ...]."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0], -1, size, *a.shape[2:]).swapaxes(0, 1),
                        tree)


def _joined(tree):
    """[C, B, size, ...] as [B, C * size, ...]."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(a.shape[1], -1, *a.shape[3:]), tree)


def count_answers(right_BT: jax.Array, answer_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many runs of answer tokens are right throughout, and how many there are.

    Args:
      right_BT: bool, the prediction is the target.
      answer_BT: bool, the token belongs to an answer; other tokens stand between two answers.
    """
    no_B1 = jnp.zeros((answer_BT.shape[0], 1), bool)
    first_BT = answer_BT & ~jnp.concatenate([no_B1, answer_BT[:, :-1]], axis=1)
    last_BT = answer_BT & ~jnp.concatenate([answer_BT[:, 1:], no_B1], axis=1)
    wrong_BT = (answer_BT & ~right_BT).astype(jnp.int32)
    errors_BT = jnp.cumsum(wrong_BT, axis=1)
    before_BT = jax.lax.cummax(jnp.where(first_BT, errors_BT - wrong_BT, 0), axis=1)
    return jnp.sum(last_BT & (errors_BT == before_BT)), jnp.sum(last_BT)
