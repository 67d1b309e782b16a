"""What is left of a fact k segments later: the gradient to it, the answer, and the whole state.

Shape suffixes: B rows, T tokens of a segment, D dimensions, P blocks with a memory, F features.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm2_jax.analysis import reading
from lm2_jax.analysis.planted import Planted
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
from lm2_jax.types import Output, Params, State


@dataclass(frozen=True)
class Gradients:
    """Norms of the gradient of an answer's loss to the embedding of a token, by distance.

    The loss is that of the answer's first token, in nats. Each norm is the mean over the tokens of
    its kind in one text.

    Attributes:
      segments: k, segments from the one where the facts end to the question's.
      fact: of the tokens of the facts that give the answer, [K, B].
      prose: of the tokens of prose in the segments of the facts, [K, B]; NaN where there is none.
    """

    segments: tuple[int, ...]
    fact: np.ndarray
    prose: np.ndarray


def embed(params: Params, tokens_BT: np.ndarray) -> jax.Array:
    """The embedding of each token, float32 [B, T, D]."""
    return params["params"]["embedding"][tokens_BT]


def apply_to_embeddings(model: LanguageModel, params: Params, x_BTD: jax.Array, state: State,
                        valid_BT: jax.Array) -> Output:
    """Reads a segment of these embeddings; returns hidden states and the next state.

    It is the same model with a vocabulary of its own, which has a word for every token.
    """
    B, T, D = x_BTD.shape
    model = LanguageModel(dataclasses.replace(model.config, vocab_size=B * T))
    params = {**params, "params": {**params["params"], "embedding": x_BTD.reshape(B * T, D)}}
    return model.apply(params, jnp.arange(B * T).reshape(B, T), state, valid_BT, logits=False)


def states(model: LanguageModel, params: Params, texts: Planted, segments: Sequence[int],
           batch_size: int, progress: Callable[[int], None] = lambda segments: None
           ) -> Iterator[list[State]]:
    """Yields for each batch of texts the states in which a question k segments later is read.

    The question's segment is the k-th after the one in which the facts end.

    Args:
      segments: k, ascending, at least 1.
    """
    T, F = model.config.segment_length, texts.fact_segments
    for tokens_BL in _batches(texts.tokens_BL, batch_size):
        state, found = init_state(model.config, len(tokens_BL)), []
        for number in range(F + segments[-1] - 1):
            tokens_BT = tokens_BL[:, number * T:(number + 1) * T]
            state = _read(model, params, state, tokens_BT, np.ones(tokens_BT.shape, bool))
            if number + 2 - F in segments:
                found.append(state)
            progress(1)
        yield found


def gradients(model: LanguageModel, params: Params, texts: Planted, segments: Sequence[int],
              pad_id: int, progress: Callable[[int], None] = lambda segments: None) -> Gradients:
    """Measures the gradient by backpropagation through every segment since the fact."""
    T, F = model.config.segment_length, texts.fact_segments
    parts = [texts.tokens_BL[:, i * T:(i + 1) * T] for i in range(F + segments[-1] - 1)]
    before = [init_state(model.config, len(texts.tokens_BL))]
    for tokens_BT in parts:
        before.append(_read(model, params, before[-1], tokens_BT, np.ones(tokens_BT.shape, bool)))
        progress(1)
    question = ask(texts, T, pad_id)
    fact, prose = [], []
    for k in segments:
        at = F + k - 1  # the question's segment
        cotangent = _gradient_to_state(model, params, before[at], *question, texts.answer_B)
        norms = []
        for number in reversed(range(at)):
            norm_BT, cotangent = _pull(model, params, embed(params, parts[number]), before[number],
                                       cotangent)
            if number < F:
                norms.append(np.asarray(norm_BT, np.float64))
            progress(1)
        norm_BL = np.concatenate(norms[::-1], axis=1)
        for found, mask_BL in ((fact, texts.support_BL), (prose, texts.prose_BL)):
            mask_BL = mask_BL[:, :F * T]
            count_B = mask_BL.sum(axis=1)
            total_B = np.where(mask_BL, norm_BL, 0).sum(axis=1)
            found.append(np.where(count_B > 0, total_B / np.maximum(count_B, 1), np.nan))
    return Gradients(tuple(segments), np.stack(fact), np.stack(prose))


def ask(texts: Planted, segment_length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The question as a segment for every text: tokens [B, T] and which of them are valid."""
    padded, valid = reading.segment(texts.question_Q, 0, segment_length, pad_id)
    B = len(texts.tokens_BL)
    return np.repeat(padded, B, axis=0), np.repeat(valid, B, axis=0)


@functools.partial(jax.jit, static_argnums=0)
def answers(model: LanguageModel, params: Params, state: State, tokens_BT, valid_BT) -> jax.Array:
    """The most likely token after the last valid one, int32 [B]."""
    return _last_logits(model, params, state, tokens_BT, valid_BT).argmax(axis=-1)


def _last_logits(model, params, state, tokens_BT, valid_BT) -> jax.Array:
    out = model.apply(params, tokens_BT, state, valid_BT, logits=False)
    last_B = jnp.sum(valid_BT, axis=1) - 1
    x_B1D = jnp.take_along_axis(out.hidden, last_B[:, None, None], axis=1)
    return unembed(x_B1D, unembedding(model.config, params))[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _read(model, params, state, tokens_BT, valid_BT) -> State:
    return model.apply(params, tokens_BT, state, valid_BT, logits=False).state


@functools.partial(jax.jit, static_argnums=0)
def _gradient_to_state(model, params, state, tokens_BT, valid_BT, answer_B) -> list[jax.Array]:
    numbers, rebuild = _split(state)

    def loss(numbers):
        logits_BV = _last_logits(model, params, rebuild(numbers), tokens_BT, valid_BT)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BV, answer_B).sum()

    return jax.grad(loss)(numbers)


@functools.partial(jax.jit, static_argnums=0)
def _pull(model, params, x_BTD, state, cotangent) -> tuple[jax.Array, list[jax.Array]]:
    """The gradient to the embeddings of a segment, its norm [B, T], and to the state before it."""
    numbers, rebuild = _split(state)

    def next_numbers(x_BTD, numbers):
        valid_BT = jnp.ones(x_BTD.shape[:2], bool)
        out = apply_to_embeddings(model, params, x_BTD, rebuild(numbers), valid_BT)
        return _split(out.state)[0]

    _, vjp = jax.vjp(next_numbers, x_BTD, numbers)
    of_x_BTD, of_numbers = vjp(cotangent)
    return jnp.linalg.norm(of_x_BTD, axis=-1), of_numbers


def _split(state: State) -> tuple[list[jax.Array], Callable[[list[jax.Array]], State]]:
    """The arrays of a state that have a gradient, and the function that puts others there."""
    leaves, treedef = jax.tree.flatten(state)
    has_gradient = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def rebuild(numbers):
        left = iter(numbers)
        return jax.tree.unflatten(treedef, [next(left) if has else leaf for leaf, has in
                                            zip(leaves, has_gradient, strict=True)])

    return [leaf for leaf, has in zip(leaves, has_gradient, strict=True) if has], rebuild


def _batches(tokens_BL: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(tokens_BL), batch_size):
        yield tokens_BL[first:first + batch_size]
