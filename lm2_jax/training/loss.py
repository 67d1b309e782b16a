"""The loss of a batch, segment by segment."""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from lm2_jax.model import kernels
from lm2_jax.model.embedding import unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import Segments, read_segments, split_segments
from lm2_jax.model.state import init_state
from lm2_jax.training.cross_entropy import cross_entropy
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
      writes: write rate of the memory for a segment, from 0 to 1 (`wavefront.write_rate`), summed
        over rows, blocks and segments.
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
      chunk_tokens: tokens of each row whose logits are computed at once, as `cross_entropy` takes
        it.
      deterministic: without dropout.
      window_from_segments: in shorter batches attention does not see the window of earlier tokens.
    """
    c = model.config
    S, dropout = batch.reset_BS.shape[1], c.dropout > 0 and not deterministic
    split = functools.partial(split_segments, segment_length=c.segment_length)
    targets_SBT, weight_SBT, answer_SBT, valid_SBT = map(split, (
        batch.targets_BL, batch.loss_weight_BL, batch.answer_BL, batch.valid_BL))
    window = (S - 1) * c.segment_length if S >= window_from_segments else 0
    state = init_state(c, batch.tokens_BL.shape[0], window=window)
    segments = Segments(split(batch.tokens_BL), valid_SBT, batch.reset_BS.T)
    _, hidden_SBTD, writes = read_segments(
        model, params, state, segments, lambda out, _: out.hidden, (), logits=False,
        bptt_segments=bptt_segments, remat=remat_segments, unroll=kernels.unroll(S),
        dropout=key if dropout else None, write_rates=True)
    loss, losses = cross_entropy(hidden_SBTD, unembedding(c, params), targets_SBT, weight_SBT,
                                 chunk_tokens)
    hits_S, answers_S = jax.vmap(count_answers)(losses.right_SBT, answer_SBT)
    return LossSums(loss=loss, row_loss_B=losses.row_B, weight=jnp.sum(weight_SBT),
                    hits=jnp.sum(hits_S), answers=jnp.sum(answers_S), tokens=jnp.sum(valid_SBT),
                    writes=writes)


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
