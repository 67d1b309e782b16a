"""The loss of a batch, segment by segment."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.model.schedule import scan_segments, split_segments
from lm2_jax.types import Batch, Params


@struct.dataclass
class LossSums:
    """Sums over the tokens of a batch; ratios are taken after all micro-batches.

    Attributes:
      loss: weighted cross-entropy, in nats.
      weight: of all tokens.
      hits: answers (runs of tokens of weight 1) whose every token is the most likely one.
      answers: all of them.
      tokens: valid tokens.
      row_loss_B: weighted cross-entropy of each row, to name those that are not finite.
    """

    loss: jax.Array
    weight: jax.Array
    hits: jax.Array
    answers: jax.Array
    tokens: jax.Array
    row_loss_B: jax.Array


def loss_sums(model: LanguageModel, params: Params, batch: Batch, key: jax.Array, *,
              bptt_segments: int, remat_segments: bool, segment_unroll: int = 1,
              deterministic: bool = False) -> LossSums:
    """The loss over all segments of a batch, from the initial state.

    Args:
      key: for dropout.
      bptt_segments: segments that the gradient goes back through; 0 = all.
      remat_segments: compute each segment again in the backward pass.
      segment_unroll: segments in one step of the loop over them.
      deterministic: without dropout.
    """
    c = model.config
    S, dropout = batch.reset_BS.shape[1], c.dropout > 0 and not deterministic
    fields = (batch.tokens_BL, batch.targets_BL, batch.loss_weight_BL, batch.valid_BL)
    segments = tuple(split_segments(x_BL, c.segment_length) for x_BL in fields)

    def step(state, x):
        tokens_BT, targets_BT, weight_BT, valid_BT, reset_B, number = x
        rngs = {"dropout": jax.random.fold_in(key, number)} if dropout else None
        out = model.apply(params, tokens_BT, state, valid_BT, reset_B,
                          deterministic=not dropout, rngs=rngs)
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(out.logits, targets_BT)
        hits, answers = count_answers(out.logits.argmax(axis=-1) == targets_BT,
                                      weight_BT == 1.0)
        row_loss_B = jnp.sum(jnp.where(weight_BT > 0, loss_BT * weight_BT, 0.0), axis=1)
        return out.state, LossSums(
            loss=jnp.sum(row_loss_B), row_loss_B=row_loss_B,
            weight=jnp.sum(weight_BT), hits=hits, answers=answers,
            tokens=jnp.sum(valid_BT))

    state = init_state(c, batch.tokens_BL.shape[0], window=(S - 1) * c.segment_length)
    xs = (*segments, batch.reset_BS.T, jnp.arange(S))
    _, sums = scan_segments(step, state, xs, bptt_segments=bptt_segments, remat=remat_segments,
                            unroll=segment_unroll)
    return jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)


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
