"""Reads a text segment by segment and keeps what its memory does.

Shape suffixes: B rows, T tokens of a segment, P blocks with a memory, M slots, N heads, S segments,
R rows of a state (the slots, or what a kind of memory has in their place).
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
from lm2_jax.types import Params, State

GATES = ("output", "input", "forget", "open")
"""Names under which memories sow their gates; a kind of memory may have only some of them."""


@dataclass(frozen=True)
class Trace:
    """What the memory did while one text was read, by segment.

    Attributes:
      states: the state before each segment that was asked for, of one row.
      gates: the mean gate of each block, [S, P] by name; those of GATES that the memory has.
      write: write attention, the mean over heads, [S, P, T, M]; None if the memory has none. For
        each slot it sums to 1 over the tokens of the segment.
      written: the same times u; None without u.
      moved: the change of each row of the state, as a share of its size, [S, P, R].
    """

    states: dict[int, State]
    gates: dict[str, np.ndarray]
    write: np.ndarray | None
    written: np.ndarray | None
    moved: np.ndarray


def num_segments(num_tokens: int, segment_length: int) -> int:
    return -(-num_tokens // segment_length)


def segment(tokens: np.ndarray, number: int, segment_length: int, pad_id: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """Segment `number` of a text, padded: tokens [1, T] and which of them are valid, bool."""
    part = tokens[number * segment_length:(number + 1) * segment_length]
    padded = np.pad(part, (0, segment_length - len(part)), constant_values=pad_id)
    return padded[None], np.arange(segment_length)[None] < len(part)


def trace(model: LanguageModel, params: Params, tokens: np.ndarray, pad_id: int,
          keep: Collection[int] = (), progress: Callable[[int], None] = lambda segments: None
          ) -> Trace:
    """Reads a text from the initial state.

    Args:
      tokens: int32 [L].
      keep: segments before which the state is kept.
      progress: called with the number of segments read since the last call.
    """
    T = model.config.segment_length
    state, states, seen = init_state(model.config, 1), {}, []
    for number in range(num_segments(len(tokens), T)):
        if number in keep:
            states[number] = state
        state, summary = _summarise(model, params, state, *segment(tokens, number, T, pad_id))
        seen.append(jax.device_get(summary))
        progress(1)
    together = jax.tree.map(lambda *parts: np.stack(parts), *seen)
    return Trace(states, together["gates"], together.get("write"), together.get("written"),
                 together["moved"])


@functools.partial(jax.jit, static_argnums=0)
def sown(model: LanguageModel, params: Params, state: State, tokens_BT, valid_BT
         ) -> tuple[State, dict[str, jax.Array]]:
    """Reads one segment; returns the next state and what the blocks sowed, [P, B, ...] by name."""
    out, variables = model.apply(params, tokens_BT, state, valid_BT, logits=False,
                                 mutable=("intermediates", "attention"))
    found: dict[str, Any] = {}
    for collection in variables.values():
        found |= collection.get("memory_blocks", {}).get("memory", {})
    return out.state, {name: value[0].astype(jnp.float32) for name, value in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _summarise(model: LanguageModel, params: Params, state: State, tokens_BT, valid_BT
               ) -> tuple[State, dict[str, Any]]:
    after, found = sown(model, params, state, tokens_BT, valid_BT)
    gates: dict[str, jax.Array] = {}
    summary: dict[str, Any] = {"gates": gates, "moved": moved(state, after)}
    for name in GATES:
        if name not in found:
            continue
        gate = found[name][:, 0]
        of_tokens = name == "output" or model.config.memory.kind == "delta"
        weight = valid_BT[0].astype(jnp.float32) if of_tokens else jnp.ones(gate.shape[1])
        mean = gate.reshape(*gate.shape[:2], -1).mean(axis=2)
        gates[name] = mean @ weight / jnp.sum(weight)
    if "write_attention" in found:
        write_PNTM = found["write_attention"][:, 0]
        summary["write"] = write_PNTM.mean(axis=1)
        open_PNM = found["open"][:, 0] if "open" in found else None
        if open_PNM is not None and open_PNM.shape == (*write_PNTM.shape[:2], write_PNTM.shape[3]):
            summary["written"] = (write_PNTM * open_PNM[:, :, None]).mean(axis=1)
    return after, summary


def moved(before: State, after: State) -> jax.Array:
    """The change of each row of a state, |new - old| / max(|old|, |new|), float32 [P, R].

    Norms are taken over all axes after those of blocks, batch and rows, of the first row of the
    batch. If the state has several arrays, it is that of the largest.
    """
    old, new = (_largest(state)[:, 0] for state in (before, after))
    size = functools.partial(jnp.linalg.norm, axis=-1)
    old, new = (a.reshape(*a.shape[:2], -1).astype(jnp.float32) for a in (old, new))
    return size(new - old) / jnp.maximum(jnp.maximum(size(old), size(new)), 1e-12)


def _largest(state: State) -> jax.Array:
    return max(floats(state), key=lambda a: (a.ndim > 3, a.size))


def floats(state: State) -> list[jax.Array]:
    """The arrays of the memory's state that hold numbers, each [P, B, ...]."""
    return [a for a in jax.tree.leaves(state.memory) if jnp.issubdtype(a.dtype, jnp.inexact)]


def flat(state: State) -> np.ndarray:
    """The whole state of the memory, float32 [P, B, F]."""
    return np.concatenate([np.asarray(a, np.float32).reshape(*a.shape[:2], -1)
                           for a in floats(state)], axis=2)
