"""The cross-entropy of documents, segment by segment, as a model reads them."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lm2_jax import partition
from lm2_jax.generation.reading import CHUNK, places_for
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import Segments, read_segments
from lm2_jax.model.state import init_state, reset_memory
from lm2_jax.types import Params, State

LOGITS = 2**27  # most logits that are computed at a time


class Document(NamedTuple):
    """The part of a document that is read.

    Attributes:
      tokens: int32 [n + 1]; each of the first n is read, and the one after it is its target.
      prompt: tokens at the beginning that are read but not counted as targets; 0 for a text.
    """

    tokens: np.ndarray
    prompt: int

    @property
    def counted(self) -> np.ndarray:
        """bool [n], whether the target of a token counts."""
        return np.arange(1, len(self.tokens)) >= self.prompt

    def num_segments(self, segment_length: int) -> int:
        return -(-(len(self.tokens) - 1) // segment_length)

    def segment_sums(self, values: np.ndarray, segment_length: int) -> np.ndarray:
        """Sums values of the targets, [n], over each segment."""
        return np.add.reduceat(values, np.arange(0, len(values), segment_length))


class DocumentReader:
    """Reads documents from their beginnings.

    Args:
      pad_id: token of the padding.
    """

    def __init__(self, model: LanguageModel, params: Params, mesh: Mesh, *, pad_id: int):
        self.model, self.params, self.mesh, self.pad_id = model, params, mesh, pad_id

    def losses(self, documents: Sequence[Document], *, wipe: bool = False,
               batch_size: int = 0,
               progress: Callable[[int], None] = lambda tokens: None,
               between: Callable[[], None] | None = None) -> list[np.ndarray]:
        """The cross-entropy in nats of each segment of each document, [segments] float64.

        It is summed over the targets that count. Documents that are equally long are read fastest:
        rows that have ended wait under padding.

        Args:
          wipe: put the memory back to the initial one at every segment; the attention window is
            carried, so that the difference is what the memory saves.
          batch_size: rows that are computed at least, so that one compilation serves a short batch.
          progress: called with the number of tokens read since it was last called.
          between: called after each part of the batch.
        """
        c = self.model.config
        T, ways = c.segment_length, partition.rows_per_step(self.mesh)
        B = -(-max(len(documents), batch_size) // ways) * ways
        counts = [document.num_segments(T) for document in documents]
        S, done, found = max(counts), 0, []
        state = _first_state(c, B, min(places_for(S, 0, T), c.attention_window))
        while done < S:
            count = CHUNK if done + CHUNK <= S else 1
            arrays = self._segments(documents, B, done, count)
            state, nats_CB = _read(self.model, _logit_tokens(T, B, c.vocab_size), self.params,
                                   wipe, state, *arrays)
            found.append(np.asarray(nats_CB, np.float64))
            progress(int(arrays[-1].sum()))
            done += count
            if between:
                between()
        nats_SB = np.concatenate(found)
        return [nats_SB[:count, b] for b, count in enumerate(counts)]

    def _segments(self, documents: Sequence[Document], B: int, first: int, count: int
                  ) -> tuple[np.ndarray, ...]:
        """Tokens, targets, which targets count and which tokens are valid, [C, B, T] each."""
        T = self.model.config.segment_length
        tokens, targets = (np.full((B, count * T), self.pad_id, np.int32) for _ in range(2))
        counted, valid = (np.zeros((B, count * T), bool) for _ in range(2))
        for b, document in enumerate(documents):
            part = slice(first * T, (first + count) * T)
            n = len(document.tokens[:-1][part])
            tokens[b, :n] = document.tokens[:-1][part]
            targets[b, :n] = document.tokens[1:][part]
            counted[b, :n] = document.counted[part]
            valid[b, :n] = True
        return tuple(x.reshape(B, count, T).swapaxes(0, 1)
                     for x in (tokens, targets, counted, valid))


def _logit_tokens(segment_length: int, rows: int, vocab_size: int) -> int:
    """Tokens of each row whose logits are computed at a time: a divisor of the segment."""
    fitting = max(LOGITS // (rows * vocab_size), 1)
    return max(n for n in range(1, min(fitting, segment_length) + 1) if segment_length % n == 0)


_first_state = jax.jit(init_state, static_argnums=(0, 1, 2))


@functools.partial(jax.jit, static_argnums=(0, 1, 3), donate_argnums=4)
def _read(model: LanguageModel, chunk: int, params: Params, wipe: bool, state: State, tokens_CBT,
          targets_CBT, counted_CBT, valid_CBT):
    """The state after C segments, and the nats of each, [C, B] float32.

    Args:
      wipe: begin each segment with the initial memory.
    """
    matrix_VD = unembedding(model.config, params)

    def finish(out, x):
        targets_BT, counted_BT = x
        return _nats(out.hidden, matrix_VD, targets_BT, counted_BT, chunk)

    def read(state, tokens_CBT, targets_CBT, counted_CBT, valid_CBT):
        begins_CB = jnp.zeros(tokens_CBT.shape[:2], bool)
        state, nats_CB, _ = read_segments(model, params, state,
                                          Segments(tokens_CBT, valid_CBT, begins_CB), finish,
                                          (targets_CBT, counted_CBT))
        return state, nats_CB

    def read_anew(state, segment):
        return read(reset_memory(model.config, state), *(array[None] for array in segment))

    arrays = tokens_CBT, targets_CBT, counted_CBT, valid_CBT
    if wipe:
        state, nats_C1B = jax.lax.scan(read_anew, state, arrays)
        nats_CB = nats_C1B[:, 0]
    else:
        state, nats_CB = read(state, *arrays)
    return state, partition.constrain(nats_CB, None, None)  # whole on every host


def _nats(x_BTD: jax.Array, matrix_VD: jax.Array, targets_BT: jax.Array, counted_BT: jax.Array,
          chunk: int) -> jax.Array:
    """The cross-entropy of each row, [B], from the logits of `chunk` tokens a row at a time."""
    def part(xs):
        x_BCD, targets_BC, counted_BC = xs
        nats_BC = optax.softmax_cross_entropy_with_integer_labels(unembed(x_BCD, matrix_VD),
                                                                  targets_BC)
        return jnp.sum(jnp.where(counted_BC, nats_BC, 0.0), axis=1)

    def split(a):
        return a.reshape(a.shape[0], -1, chunk, *a.shape[2:]).swapaxes(0, 1)

    return jnp.sum(jax.lax.map(part, (split(x_BTD), split(targets_BT), split(counted_BT))), axis=0)
