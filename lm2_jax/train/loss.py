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
      hits: tokens of weight 1 (answers) that are the most likely next token.
      answers: tokens of weight 1.
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
              bptt_segments: int, remat_segments: bool) -> LossSums:
    """The loss over all segments of a batch, from the initial state.

    Args:
      key: for dropout.
      bptt_segments: segments that the gradient goes back through; 0 = all.
      remat_segments: compute each segment again in the backward pass.
    """
    c = model.config
    S = batch.reset_BS.shape[1]
    fields = (batch.tokens_BL, batch.targets_BL, batch.loss_weight_BL, batch.valid_BL)
    segments = tuple(split_segments(x_BL, c.segment_length) for x_BL in fields)

    def step(state, x):
        tokens_BT, targets_BT, weight_BT, valid_BT, reset_B, number = x
        rngs = {"dropout": jax.random.fold_in(key, number)} if c.dropout else None
        out = model.apply(params, tokens_BT, state, valid_BT, reset_B,
                          deterministic=not c.dropout, rngs=rngs)
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(out.logits, targets_BT)
        answer_BT = weight_BT == 1.0
        hit_BT = (out.logits.argmax(axis=-1) == targets_BT) & answer_BT
        row_loss_B = jnp.sum(jnp.where(weight_BT > 0, loss_BT * weight_BT, 0.0), axis=1)
        return out.state, LossSums(
            loss=jnp.sum(row_loss_B), row_loss_B=row_loss_B,
            weight=jnp.sum(weight_BT), hits=jnp.sum(hit_BT), answers=jnp.sum(answer_BT),
            tokens=jnp.sum(valid_BT))

    state = init_state(c, batch.tokens_BL.shape[0])
    xs = (*segments, batch.reset_BS.T, jnp.arange(S))
    _, sums = scan_segments(step, state, xs, bptt_segments=bptt_segments, remat=remat_segments)
    return jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)
