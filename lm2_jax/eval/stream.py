"""Streams contexts of any length through a model and generates answers greedily."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.model.lm import LanguageModel, init_state, select_rows
from lm2_jax.types import Output, Params, State


class Streamer:
    """Reads prompts segment by segment and answers them; compiled once a batch size.

    A prompt is cut into full segments and a last one that is not full (it may be empty). Rows
    whose full segments are read wait under padding, which changes nothing; then the last
    segments are read again and again, one more generated token each time, from the state that
    they begin with, so nothing but the state is kept.
    """

    def __init__(self, model: LanguageModel, params: Params, *, pad_id: int, end_id: int):
        self.model, self.params = model, params
        self.pad_id, self.end_id = pad_id, end_id
        self._read = jax.jit(self._next_token, static_argnums=(4,))
        # Alone, the state does not need the logits, and the compiler leaves them out.
        self._advance = jax.jit(lambda *args: self._segment(*args).state, static_argnums=(4,))
        self._choose = jax.jit(select_rows)

    def _segment(self, params, state: State, tokens_BT, valid_BT, wipe: bool) -> Output:
        reset_B = jnp.full(tokens_BT.shape[:1], wipe)
        return self.model.apply(params, tokens_BT, state, valid_BT, reset_B)

    def _next_token(self, params, state: State, tokens_BT, valid_BT, wipe: bool):
        """The next state, and the most likely token after the last valid one of each row."""
        out = self._segment(params, state, tokens_BT, valid_BT, wipe)
        last_B = jnp.maximum(jnp.sum(valid_BT, axis=1) - 1, 0)
        logits_BV = jnp.take_along_axis(out.logits, last_B[:, None, None], axis=1)[:, 0]
        return out.state, jnp.argmax(logits_BV, axis=-1)

    def answer(self, prompts: Sequence[np.ndarray], max_new_tokens: int, *, wipe: bool = False,
               progress: Callable[[int], None] = lambda tokens: None) -> list[list[int]]:
        """The tokens generated after each prompt, up to the end mark (not included).

        Args:
          prompts: int32 arrays, none empty, of any length.
          wipe: put the memory back to the initial state at every segment.
          progress: called with the number of prompt tokens of each segment read.
        """
        T, B = self.model.config.segment_length, len(prompts)
        full_B = [(len(prompt) - 1) // T for prompt in prompts]
        state = init_state(self.model.config, B)
        for s in range(max(full_B)):
            rows = [p[s * T:(s + 1) * T] if s < n else p[:0]
                    for p, n in zip(prompts, full_B, strict=True)]
            state = self._advance(self.params, state, *self._padded(rows), wipe)
            progress(sum(map(len, rows)))
        tails = [list(p[n * T:]) for p, n in zip(prompts, full_B, strict=True)]
        progress(sum(map(len, tails)))
        answers = [[] for _ in prompts]
        going = set(range(B))
        for _ in range(max_new_tokens):
            after, token_B = self._read(self.params, state, *self._padded(tails), wipe)
            closed = np.array([len(tail) == T for tail in tails])
            if closed.any():
                state = self._choose(jnp.asarray(closed), after, state)
            for b, token in enumerate(np.asarray(token_B).tolist()):
                tails[b] = ([] if closed[b] else tails[b]) + [token]
                if b in going and token == self.end_id:
                    going.remove(b)
                elif b in going:
                    answers[b].append(token)
            if not going:
                break
        return answers

    def _padded(self, rows: Sequence[Sequence[int]]):
        T = self.model.config.segment_length
        tokens = np.full((len(rows), T), self.pad_id, np.int32)
        valid = np.zeros((len(rows), T), bool)
        for b, row in enumerate(rows):
            tokens[b, :len(row)] = row
            valid[b, :len(row)] = True
        return tokens, valid
