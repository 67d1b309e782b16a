"""Log-likelihoods of continuations, each after a context of any length."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.generation import reading as readings
from lm2_jax.generation.reading import Reading, padded, places_for
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.types import Output, Params, State

LOGITS = 2**26  # most logits that are computed at a time
NARROWEST = 16  # tokens of the narrowest last segment that is compiled


class Request(NamedTuple):
    """A continuation of a context: int32 tokens; the context has at least one."""

    context: np.ndarray
    continuation: np.ndarray


class Score(NamedTuple):
    """What a model says of a continuation.

    Attributes:
      log_likelihood: natural logarithm of the probability of the continuation after its context.
      greedy: whether each of its tokens is the most likely one after those before it.
    """

    log_likelihood: float
    greedy: bool


@dataclass
class _Row:
    """Tokens that are read after a context, and the requests whose scores this gives.

    Requests whose continuations differ in the last token alone share a row, since the last token
    is predicted and not read.

    Attributes:
      tokens: of the continuations, without the last.
      lasts: the last tokens.
      requests: their numbers.
    """

    tokens: np.ndarray
    lasts: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)


class Scorer:
    """Computes log-likelihoods; compiled once per model, batch size and power of two of tokens.

    A context is read once, whatever the number of its continuations: its full segments go into the
    state, from which each continuation is read together with the rest of the context. Segments are
    cut as in training, from the first token of the context. Logits are computed for the tokens of
    continuations only.

    Args:
      mesh: the current mesh wherever the methods are called.
      pad_id: token of the padding.
    """

    def __init__(self, model: LanguageModel, params: Params, mesh: partition.AnyMesh, *,
                 pad_id: int):
        self.model, self.params, self.pad_id = model, params, pad_id
        self._ways = partition.rows_per_step(mesh)

    def scores(self, requests: Sequence[Request], batch_size: int, *, wipe: bool = False
               ) -> Iterator[tuple[int, Score]]:
        """Yields the number of a request and its score, in the order in which they are computed.

        The longest come first. An empty continuation has the log-likelihood 0.

        Args:
          batch_size: rows that are computed at a time; a few more if the devices need them.
          wipe: put the memory back to the initial state at every segment.
        """
        yield from ((number, Score(0.0, True)) for number, request in enumerate(requests)
                    if not len(request.continuation))
        rows_of = _rows_of(requests)
        contexts = sorted((np.frombuffer(key, np.int32) for key in rows_of), key=len, reverse=True)
        B = -(-batch_size // self._ways) * self._ways
        for first in range(0, len(contexts), B):
            batch = contexts[first:first + B]
            rows = [(b, row) for b, context in enumerate(batch)
                    for row in rows_of[context.tobytes()]]
            T = self.model.config.segment_length
            places = places_for((len(batch[0]) - 1) // T,
                                max(len(row.tokens) for _, row in rows), T)
            reading = readings.read(self.model, self.params, batch, pad_id=self.pad_id, wipe=wipe,
                                    batch_size=B, places=places)
            yield from self._rows(reading, rows, B, wipe)

    def _rows(self, reading: Reading, rows: list[tuple[int, _Row]], B: int, wipe: bool
              ) -> Iterator[tuple[int, Score]]:
        """Reads rows from the state of their contexts, the longest first."""
        rows = sorted(rows, key=lambda pair: -len(reading.tails[pair[0]]) - len(pair[1].tokens))
        for first in range(0, len(rows), B):
            batch = rows[first:first + B]
            taken = reading.take([b for b, _ in batch], B)
            found = self._read(taken, [row for _, row in batch], wipe)
            for (_, row), (log_prob, greedy) in zip(batch, found, strict=True):
                shared = len(row.tokens)  # places whose targets belong to all requests of the row
                for i, number in enumerate(row.requests, shared):
                    yield number, Score(
                        float(log_prob[:shared].sum(dtype=np.float64) + log_prob[i]),
                        bool(greedy[:shared].all() and greedy[i]))

    def _read(self, reading: Reading, rows: Sequence[_Row], wipe: bool
              ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The log-probability of each target of each row, and whether it is the most likely token.

        The targets of a row are its tokens, and then each of its last tokens.
        """
        c, B, state = self.model.config, len(reading.tails), reading.state
        T, reset_B = c.segment_length, np.full(B, wipe)
        texts = [np.concatenate([tail, row.tokens]) for tail, row in
                 zip(reading.tails, rows, strict=False)]
        # The token at `places` predicts the one of `targets`.
        places = [len(tail) - 1 + np.append(np.arange(len(row.tokens)),
                                            np.full(len(row.lasts), len(row.tokens)))
                  for tail, row in zip(reading.tails, rows, strict=False)]
        targets = [np.append(row.tokens, row.lasts) for row in rows]
        segments = -(-max(map(len, texts)) // T)
        found = []
        for s in range(segments):
            parts = [text[s * T:(s + 1) * T] for text in texts]
            # The state after the last segment is not needed: it may be as narrow as its tokens.
            width = T if s + 1 < segments else _rounded(max(map(len, parts)), T)
            inside = [place // T == s for place in places]
            C = _rounded(max(int(chosen.sum()) for chosen in inside), None)
            place_BC, target_BC = np.zeros((2, B, C), np.int32)
            for b, chosen in enumerate(inside):
                place_BC[b, :chosen.sum()] = places[b][chosen] - s * T
                target_BC[b, :chosen.sum()] = targets[b][chosen]
            state, *arrays = _score(
                self.model, _at_a_time(C, B, c.vocab_size), self.params, state,
                *padded([*parts, *[()] * (B - len(rows))], width, self.pad_id), reset_B,
                place_BC, target_BC)
            found.append([[np.asarray(array)[b, :chosen.sum()] for b, chosen in enumerate(inside)]
                          for array in arrays])
        log_probs, greedy = ([np.concatenate(parts) for parts in zip(*kind, strict=True)]
                             for kind in zip(*found, strict=True))
        return list(zip(log_probs, greedy, strict=True))


def _rows_of(requests: Sequence[Request]) -> dict[bytes, list[_Row]]:
    """The rows of each context, by its bytes, without empty continuations."""
    found: dict[bytes, dict[bytes, _Row]] = {}
    for number, (context, continuation) in enumerate(requests):
        if len(continuation):
            tokens = np.asarray(continuation[:-1], np.int32)
            rows = found.setdefault(np.asarray(context, np.int32).tobytes(), {})
            row = rows.setdefault(tokens.tobytes(), _Row(tokens))
            row.lasts.append(int(continuation[-1]))
            row.requests.append(number)
    return {context: list(rows.values()) for context, rows in found.items()}


def _rounded(count: int, most: int | None) -> int:
    """A power of two of at least `count`, or `most` if that is less, so that few are compiled."""
    power = max(NARROWEST, 1 << (count - 1).bit_length())
    return power if most is None else min(power, most)


def _at_a_time(places: int, rows: int, vocab_size: int) -> int:
    """Places of each row, a power of two, whose logits are computed at a time."""
    fitting = max(LOGITS // (rows * vocab_size), 1)
    return min(places, 1 << (fitting.bit_length() - 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(model: LanguageModel, chunk: int, params: Params, state: State, tokens_BW, valid_BW,
           reset_B, place_BC, target_BC):
    """The state after a segment, the log-probability of the target of each place, float32 [B, C],
    and whether it is the most likely token, bool [B, C]."""
    out: Output = model.apply(params, tokens_BW, state, valid_BW, reset_B, logits=False)
    assert out.hidden is not None  # logits=False
    matrix_VD = unembedding(model.config, params)
    hidden_BWD = out.hidden

    def part(xs):
        place_BK, target_BK = xs
        x_BKD = jnp.take_along_axis(hidden_BWD, place_BK[..., None], axis=1)
        logits_BKV = unembed(x_BKD, matrix_VD)
        chosen_BK = jnp.take_along_axis(logits_BKV, target_BK[..., None], axis=-1)[..., 0]
        log_prob_BK = chosen_BK - jax.nn.logsumexp(logits_BKV, axis=-1)
        return log_prob_BK, jnp.argmax(logits_BKV, axis=-1) == target_BK

    def split(a_BC):
        return a_BC.reshape(len(a_BC), -1, chunk).swapaxes(0, 1)

    def whole(a_NBK):  # on every host
        return partition.constrain(a_NBK.swapaxes(0, 1).reshape(place_BC.shape), None, None)

    log_prob_NBK, greedy_NBK = jax.lax.map(part, (split(place_BC), split(target_BC)))
    return out.state, whole(log_prob_NBK), whole(greedy_NBK)
