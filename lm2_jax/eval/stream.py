"""Streams contexts of any length through a model and generates answers greedily."""

import functools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import (
    LanguageModel,
    constrain_state,
    init_state,
    select_rows,
    with_axes,
)
from lm2_jax.model.schedule import scan_segments
from lm2_jax.types import Output, Params, State, Tokens

CHUNK = 32  # segments that go to the device at once

class Streamer:
    """Reads prompts segment by segment and answers them; compiled once a model and batch size.

    A prompt is cut into full segments and a last one of 1 to segment_length tokens. The full ones
    go to the device in runs of CHUNK, then one by one: its context is never there as a whole,
    nor on the host, if it is made as it is read. Rows whose full segments are read wait under
    padding, which changes nothing; then the last segments are read again and again, one more
    generated token each time, from the state that they begin with.
    """

    def __init__(self, model: LanguageModel, params: Params, *, pad_id: int,
                 stop_ids: Collection[int]):
        self.model, self.params = model, params
        self.pad_id, self.stop_ids = pad_id, stop_ids

    def answer(self, prompts: Sequence[Tokens], max_new_tokens: int, *, wipe: bool = False,
               batch_size: int = 0, progress: Callable[[int], None] = lambda tokens: None
               ) -> list[list[int]]:
        """The tokens generated after each prompt, up to one of `stop_ids` (not included).

        Args:
          prompts: int32 tokens, none empty, of any length: arrays, or what gives them by slices.
          wipe: put the memory back to the initial state at every segment.
          batch_size: rows that are computed at least, so that one compilation serves a short batch.
          progress: called with the number of prompt tokens read since it was last called.
        """
        T, asked = self.model.config.segment_length, len(prompts)
        B = max(asked, batch_size)
        prompts = [*prompts, *[prompts[0][:1]] * (B - asked)]
        full_B = [(len(prompt) - 1) // T for prompt in prompts]
        reset_B = np.full(B, wipe)
        places = min(places_for(max(full_B), max_new_tokens, T), self.model.config.attention_window)
        state = _first_state(self.model.config, B, places)
        s = 0
        while s < max(full_B):
            count = CHUNK if s + CHUNK <= max(full_B) else 1
            rows = [[p[i * T:(i + 1) * T] if i < n else () for p, n in
                     zip(prompts, full_B, strict=True)] for i in range(s, s + count)]
            padded = [self._padded(row) for row in rows]
            state = _advance(self.model, self.params, state,
                             *map(np.stack, zip(*padded, strict=True)), reset_B)
            progress(sum(len(tokens) for row in rows for tokens in row))
            s += count
        tails = [list(p[n * T:]) for p, n in zip(prompts, full_B, strict=True)]
        progress(sum(map(len, tails[:asked])))
        answers = [[] for _ in range(asked)]
        going = set(range(asked))
        for _ in range(max_new_tokens):
            after, token_B = _read(self.model, self.params, state, *self._padded(tails), reset_B)
            closed = np.array([len(tail) == T for tail in tails])
            if closed.any():
                state = _choose(closed, after, state)
            for b, token in enumerate(np.asarray(token_B).tolist()):
                tails[b] = ([] if closed[b] else tails[b]) + [token]
                if b in going and token in self.stop_ids:
                    going.remove(b)
                elif b in going:
                    answers[b].append(token)
            if not going:
                break
        return answers

    def _padded(self, rows: Sequence[np.ndarray | Sequence[int]]
                ) -> tuple[np.ndarray, np.ndarray]:
        T = self.model.config.segment_length
        tokens = np.full((len(rows), T), self.pad_id, np.int32)
        valid = np.zeros((len(rows), T), bool)
        for b, row in enumerate(rows):
            tokens[b, :len(row)] = row
            valid[b, :len(row)] = True
        return tokens, valid


def places_for(full_segments: int, max_new_tokens: int, segment_length: int) -> int:
    """Places for earlier tokens: no more than there will be, for a power of two of segments, so
    that few are compiled."""
    T = segment_length
    return T << (full_segments + -(-max_new_tokens // T)).bit_length()


def traced(model: LanguageModel, params: Params, batch_size: int, places: int,
           mesh: partition.AnyMesh) -> dict[str, jax.stages.Traced]:
    """What a Streamer runs, traced for arrays of these shapes, by what it does.

    Args:
      params: abstract, with shardings.
      places: for earlier tokens.
    """
    B, T = batch_size, model.config.segment_length
    state = with_axes(
        lambda a, *names: jax.ShapeDtypeStruct(a.shape, a.dtype,
                                               sharding=partition.named(mesh, *names)),
        jax.eval_shape(functools.partial(init_state, model.config, B, places)))
    reset_B = jax.ShapeDtypeStruct((B,), bool)

    def segments(*shape):
        return (jax.ShapeDtypeStruct((*shape, B, T), jnp.int32),
                jax.ShapeDtypeStruct((*shape, B, T), bool))

    return {f"read {CHUNK} segments": _advance.trace(model, params, state, *segments(CHUNK),
                                                     reset_B),
            "next token": _read.trace(model, params, state, *segments(), reset_B)}


# Outside the class, so that every Streamer of a model shares what is compiled.

_first_state = jax.jit(init_state, static_argnums=(0, 1, 2))


@jax.jit
def _choose(choose_B, chosen: State, other: State) -> State:
    return constrain_state(select_rows(choose_B, chosen, other))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(model: LanguageModel, params: Params, state: State, tokens_CBT, valid_CBT, reset_B):
    """The state after C segments, sharded as the one that went in, so that it takes its place."""
    def step(state, x):
        out: Output = model.apply(params, x[0], state, x[1], reset_B, logits=False)
        return out.state, None

    return scan_segments(step, state, (tokens_CBT, valid_CBT), remat=False)[0]


@functools.partial(jax.jit, static_argnums=0)
def _read(model: LanguageModel, params: Params, state: State, tokens_BT, valid_BT, reset_B):
    """The next state, and the most likely token after the last valid one of each row."""
    out: Output = model.apply(params, tokens_BT, state, valid_BT, reset_B, logits=False)
    assert out.hidden is not None  # logits=False
    last_B = jnp.maximum(jnp.sum(valid_BT, axis=1) - 1, 0)
    x_B1D = jnp.take_along_axis(out.hidden, last_B[:, None, None], axis=1)
    logits_B1V = unembed(x_B1D, unembedding(model.config, params))
    token_B = jnp.argmax(logits_B1V[:, 0], axis=-1)
    return out.state, partition.constrain(token_B, None)  # whole on every host
