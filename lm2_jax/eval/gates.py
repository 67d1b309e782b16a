"""Measures the gates of an LM2 memory while the model reads: how far open, and how fast it forgets.

Shape suffixes: B rows, T tokens of a segment, D dimensions, P blocks with a memory, M slots.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.data.babilong.kinds import FACT, PROSE, QUESTION
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.types import Params

QUANTILES = (0.1, 0.5, 0.9)
_NAMES = {PROSE: "prose", FACT: "facts", QUESTION: "question"}


@dataclass(frozen=True)
class Gates:
    """The gates of one block; each is between 0 (closed) and 1 (open).

    The gates of each slot and dimension are averaged over segments first; quantiles (QUANTILES)
    are then taken over slots and dimensions. "prose" are the segments that hold prose only,
    "facts" those with at least one fact.

    Attributes:
      block: its number, from 0.
      output: mean of the output gate over tokens of prose, of facts, and of the question.
      input: quantiles of the arithmetic mean of the input gate.
      forget: quantiles of the geometric mean of the forget gate.
      half_life: tokens of prose after which half of a value is left, at each quantile of the
        forget gate; inf where the gate is 1. Taken from segments with facts if there are no others.
      retention: rows (tokens of prose read, share left at each quantile), measured: the product
        of the forget gates over 1, 2, 4, ... consecutive segments, averaged over such stretches.
    """

    block: int
    output: dict[str, float]
    input: dict[str, tuple[float, ...]]
    forget: dict[str, tuple[float, ...]]
    half_life: tuple[float, ...]
    retention: tuple[tuple[float, ...], ...]


class _Mean:
    """A running mean of equal arrays, in float64; NaN before the first."""

    def __init__(self):
        self._sum, self._count = np.zeros(()), 0

    def add(self, values: np.ndarray) -> None:
        self._sum, self._count = self._sum + np.asarray(values, np.float64), self._count + 1

    def of_block(self, block: int) -> np.ndarray:
        return self._sum[block] / self._count if self._count else np.array(math.nan)


class _Retention:
    """The share of each slot and dimension left after 1, 2, 4, ... consecutive segments."""

    def __init__(self):
        self.means: dict[int, _Mean] = {}
        self.restart()

    def restart(self) -> None:
        """The next segment does not follow the last one."""
        self._length, self._log_sum = 0, np.zeros(())
        self._window_starts: dict[int, np.ndarray] = {}

    def add(self, log_forget_PMD: np.ndarray) -> None:
        self._length += 1
        self._log_sum = self._log_sum + np.asarray(log_forget_PMD, np.float64)
        window = 1
        while self._length % window == 0:  # windows of one size do not overlap
            share = np.exp(self._log_sum - self._window_starts.get(window, 0.0))
            self.means.setdefault(window, _Mean()).add(share)
            self._window_starts[window] = self._log_sum
            window *= 2


def measure(model: LanguageModel, params: Params,
            samples: Iterable[tuple[np.ndarray, np.ndarray]], pad_id: int) -> list[Gates]:
    """Reads samples one by one, each from the initial state.

    Args:
      samples: tokens, int32 [L], and the kind of each token (`data.babilong.kinds`). The last
        segment of a sample holds the question; its input and forget gates do not count.
    """
    T = model.config.segment_length
    output = {name: _Mean() for name in _NAMES.values()}
    inputs, log_forgets = ({"prose": _Mean(), "facts": _Mean()} for _ in range(2))
    retention = _Retention()
    for tokens, kinds in samples:
        state = init_state(model.config, 1)
        retention.restart()
        for start in range(0, len(tokens), T):
            part, part_kinds = tokens[start:start + T], kinds[start:start + T]
            padded = np.pad(part, (0, T - len(part)), constant_values=pad_id)
            state, gates = _read_segment(model, params, state, padded[None],
                                         np.arange(T)[None] < len(part))
            output_PT, input_PMD, log_forget_PMD = jax.device_get(gates)
            for kind, name in _NAMES.items():
                for t in np.flatnonzero(part_kinds == kind):
                    output[name].add(output_PT[:, t])
            if start + T >= len(tokens):
                break
            told = "facts" if FACT in part_kinds else "prose"
            inputs[told].add(input_PMD)
            log_forgets[told].add(log_forget_PMD)
            if told == "prose":
                retention.add(log_forget_PMD)
            else:
                retention.restart()

    def of_block(block: int) -> Gates:
        forget = {name: _quantiles(np.exp(mean.of_block(block)))
                  for name, mean in log_forgets.items()}
        known = forget["facts"] if math.isnan(forget["prose"][0]) else forget["prose"]
        return Gates(
            block, {name: float(mean.of_block(block)) for name, mean in output.items()},
            {name: _quantiles(mean.of_block(block)) for name, mean in inputs.items()}, forget,
            tuple(_half_life(f) * T for f in known),
            tuple((float(window * T), *_quantiles(mean.of_block(block)))
                  for window, mean in retention.means.items()))

    return [of_block(block) for block in range(model.config.memory.num_layers)]


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist())


def _half_life(forget: float) -> float:
    """Segments after which half is left; NaN of NaN."""
    return math.inf if forget >= 1 else math.log(0.5) / math.log(forget)


@functools.partial(jax.jit, static_argnums=0)
def _read_segment(model: LanguageModel, params: Params, state, tokens_BT, valid_BT):
    """Reads one segment of one row.

    Returns:
      The next state, and the output gate averaged over dimensions [P, T], the input gate
      [P, M, D] and the log of the forget gate [P, M, D], float32.
    """
    out, sown = model.apply(params, tokens_BT, state, valid_BT, mutable="intermediates")
    gates = sown["intermediates"]["memory_blocks"]["memory"]
    output_PTD, input_PMD, forget_PMD = (gates[name][0][:, 0].astype(jnp.float32)
                                         for name in ("output", "input", "forget"))
    smallest = jnp.finfo(jnp.float32).tiny
    return out.state, (output_PTD.mean(axis=-1), input_PMD,
                       jnp.log(jnp.maximum(forget_PMD, smallest)))
