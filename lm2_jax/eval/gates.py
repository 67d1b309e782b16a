"""Measures the gates of an LM2 memory while the model reads: how far open, and how fast it forgets.

Shape suffixes: B rows, T tokens of a segment, D dimensions, P blocks with a memory, M slots,
N heads.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.kinds import FACT, PROSE, QUESTION, kinds_of
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state
from lm2_jax.types import Params, State

QUANTILES = (0.1, 0.5, 0.9)
EXPECTED_SEGMENTS = tuple(2**i for i in range(17))
_NAMES = {PROSE: "prose", FACT: "facts", QUESTION: "question"}


@dataclass(frozen=True)
class Gates:
    """The gates of one block; each is between 0 (closed) and 1 (open).

    The gates of each slot and dimension are averaged over segments first; quantiles (QUANTILES)
    are then taken over slots and dimensions. "prose" are the segments that hold prose only,
    "facts" those with at least one fact.

    How long a slot keeps a value. A segment leaves the share r of a value and adds w to it:

        bank <- r bank + w,    r = 1 - u (1 - f),    w = u i tanh(S)        (u = 1: paper's write)

    The value fades by r, and it is covered by what is added later, even where r is 1. After n
    segments a value of size o is this share of what the slot holds, sizes being absolute values:

        share(n) = R o / (R o + a),    R = product of the r,    a = sum of each |w| times later r

    and with r, |w| and o at their means over segments (the geometric mean for r)

        share(n) = r^n o / (r^n o + |w| (1 - r^n) / (1 - r))
        half     = log(1 + o (1 - r) / |w|) / -log r    segments;   o / |w| where r is 1

    Attributes:
      block: its number, from 0.
      output: mean of the output gate over tokens of prose, of facts, and of the question.
      input: quantiles of the arithmetic mean of the input gate.
      forget: quantiles of the geometric mean of the forget gate.
      open: quantiles over slots and heads of the mean of u; empty for a write that has no u.
      closed: share of slots and heads, of all segments, where u is exactly 0; empty without u.
      half_life: `half` in tokens of prose, its quantiles over slots and dimensions; inf where
        nothing is added. Taken from segments with facts if there are no others.
      expected: rows (tokens of prose, quantiles of `share` by the means), for 1, 2, 4, ...
        segments.
      retention: rows (tokens of prose, quantiles of `share`), measured over 1, 2, 4, ...
        consecutive segments; R o and a are averaged over such stretches before the division.
    """

    block: int
    output: dict[str, float]
    input: dict[str, tuple[float, ...]]
    forget: dict[str, tuple[float, ...]]
    open: dict[str, tuple[float, ...]]
    closed: dict[str, float]
    half_life: tuple[float, ...]
    expected: tuple[tuple[float, ...], ...]
    retention: tuple[tuple[float, ...], ...]


class _Mean:
    """A running mean of equal arrays, in float64; NaN before the first."""

    def __init__(self):
        self._sum, self._count = np.zeros(()), 0

    def add(self, values: np.ndarray) -> None:
        self._sum, self._count = self._sum + np.asarray(values, np.float64), self._count + 1

    def of_block(self, block: int) -> np.ndarray:
        return self._sum[block] / self._count if self._count else np.array(math.nan)


class _Stretch(NamedTuple):
    """What consecutive segments do to the values of the bank, each [P, M, D] of float64.

    Attributes:
      old: |bank| before them.
      log_kept: log of the share that they leave of it, R.
      added: what they add, a.
    """

    old: np.ndarray
    log_kept: np.ndarray
    added: np.ndarray

    def then(self, later: "_Stretch") -> "_Stretch":
        return _Stretch(self.old, self.log_kept + later.log_kept,
                        self.added * np.exp(later.log_kept) + later.added)


class _Means:
    """The means of all stretches of one length, and what follows from them."""

    def __init__(self):
        self._old, self._log_kept, self._added, self._left = (_Mean() for _ in range(4))

    def add(self, stretch: _Stretch) -> None:
        self._old.add(stretch.old)
        self._log_kept.add(stretch.log_kept)
        self._added.add(stretch.added)
        self._left.add(stretch.old * np.exp(stretch.log_kept))

    def share(self, block: int) -> np.ndarray:
        """The measured share of the old value [M, D]; 1 where nothing is and nothing is added."""
        return _share(self._left.of_block(block), self._added.of_block(block))

    def share_after(self, block: int, segments: int) -> np.ndarray:
        """`share(n)` of means over single segments, [M, D]."""
        old, added, q = self._of(block)
        kept = np.exp(-q * segments)
        with np.errstate(invalid="ignore"):
            times = np.where(q > 0, np.expm1(-q * segments) / np.expm1(-q), segments)
        return _share(kept * old, added * times)

    def half_life(self, block: int) -> np.ndarray:
        """`half` of means over single segments, [M, D], in segments."""
        old, added, q = self._of(block)
        with np.errstate(invalid="ignore", divide="ignore"):
            half = np.where(q > 0, np.log1p(-old * np.expm1(-q) / added) / q, old / added)
        return np.where(added == 0, math.inf, half)

    def _of(self, block: int) -> tuple[np.ndarray, ...]:
        return (self._old.of_block(block), self._added.of_block(block),
                -self._log_kept.of_block(block))


def _share(left: np.ndarray, added: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(left + added == 0, 1.0, left / (left + added))


class _Retention:
    """The means of stretches of 1, 2, 4, ... consecutive segments; those of a length are apart."""

    def __init__(self):
        self.means: dict[int, _Means] = {}
        self.restart()

    def restart(self) -> None:
        """The next segment does not follow the last one."""
        self._first_halves: dict[int, _Stretch] = {}

    def add(self, stretch: _Stretch, length: int = 1) -> None:
        self.means.setdefault(length, _Means()).add(stretch)
        if first := self._first_halves.pop(length, None):
            self.add(first.then(stretch), 2 * length)
        else:
            self._first_halves[length] = stretch


def tokens_and_kinds(prompt: Prompt, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a prompt and their kinds; all that follows the context is the question."""
    tokens = prompt.tokens[:]
    kinds = kinds_of(tokens, encoder)
    kinds[len(tokens) - len(prompt.tokens.parts[-1]):] = QUESTION
    return tokens, kinds


def measure(model: LanguageModel, params: Params,
            samples: Iterable[tuple[np.ndarray, np.ndarray]], pad_id: int) -> list[Gates]:
    """Reads samples one by one, each from the initial state.

    Args:
      samples: tokens, int32 [L], and the kind of each token (`data.babilong.kinds`). The last
        segment of a sample holds the question; its input and forget gates do not count.
    """
    T = model.config.segment_length
    output = {name: _Mean() for name in _NAMES.values()}
    inputs, log_forgets, opens, closed = ({"prose": _Mean(), "facts": _Mean()} for _ in range(4))
    retention, of_facts, has_open = _Retention(), _Means(), False
    for tokens, kinds in samples:
        state = init_state(model.config, 1)
        retention.restart()
        for start in range(0, len(tokens), T):
            part, part_kinds = tokens[start:start + T], kinds[start:start + T]
            padded = np.pad(part, (0, T - len(part)), constant_values=pad_id)
            state, read = _read_segment(model, params, state, padded[None],
                                        np.arange(T)[None] < len(part))
            segment = jax.device_get(read)
            for kind, name in _NAMES.items():
                for t in np.flatnonzero(part_kinds == kind):
                    output[name].add(segment.output_PT[:, t])
            if start + T >= len(tokens):
                break
            told = "facts" if FACT in part_kinds else "prose"
            inputs[told].add(segment.input_PMD)
            log_forgets[told].add(segment.log_forget_PMD)
            if segment.open_PNM is not None:
                has_open = True
                opens[told].add(segment.open_PNM)
                closed[told].add(np.mean(segment.open_PNM == 0, axis=(1, 2)))
            stretch = _Stretch(*(np.asarray(a, np.float64) for a in segment.stretch))
            if told == "prose":
                retention.add(stretch)
            else:
                of_facts.add(stretch)
                retention.restart()
    one = retention.means.get(1, of_facts)

    def of_block(block: int) -> Gates:
        def quantiles(means):
            return {name: _quantiles(mean.of_block(block)) for name, mean in means.items()}

        return Gates(
            block, output={name: float(mean.of_block(block)) for name, mean in output.items()},
            input=quantiles(inputs),
            forget={name: _quantiles(np.exp(mean.of_block(block)))
                    for name, mean in log_forgets.items()},
            open=quantiles(opens) if has_open else {},
            closed={name: float(mean.of_block(block)) for name, mean in closed.items()}
            if has_open else {},
            half_life=tuple(h * T for h in _order_statistics(one.half_life(block))),
            expected=tuple((float(n * T), *_quantiles(one.share_after(block, n)))
                           for n in EXPECTED_SEGMENTS),
            retention=tuple((float(n * T), *_quantiles(means.share(block)))
                            for n, means in retention.means.items()))

    return [of_block(block) for block in range(model.config.memory.num_layers)]


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist())


def _order_statistics(values: np.ndarray) -> tuple[float, ...]:
    """Quantiles without interpolation, which infinite values do not allow."""
    ordered = np.sort(values, axis=None)
    return tuple(float(ordered[round(q * (ordered.size - 1))]) for q in QUANTILES)


class _Segment(NamedTuple):
    """What is measured in one segment of one row, float32.

    Attributes:
      output_PT: the output gate, averaged over dimensions.
      input_PMD: the input gate.
      log_forget_PMD: log of the forget gate.
      open_PNM: u; None for a write that has none.
      stretch: the fields of `_Stretch`.
    """

    output_PT: jax.Array
    input_PMD: jax.Array
    log_forget_PMD: jax.Array
    open_PNM: jax.Array | None
    stretch: tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.jit, static_argnums=0)
def _read_segment(model: LanguageModel, params: Params, state, tokens_BT, valid_BT
                  ) -> tuple[State, _Segment]:
    """Reads one segment of one row; returns the next state and what is measured."""
    out, sown = model.apply(params, tokens_BT, state, valid_BT, mutable="intermediates")
    gates = {name: value[0][:, 0].astype(jnp.float32) for name, value in
             sown["intermediates"]["memory_blocks"]["memory"].items()}
    open_PNM, forget_PMD = gates.get("open"), gates["forget"]
    open_PMD = 1.0 if open_PNM is None else jnp.repeat(
        open_PNM.swapaxes(1, 2), forget_PMD.shape[2] // open_PNM.shape[1], axis=2)
    kept_PMD = 1 - open_PMD * (1 - forget_PMD)
    old_PMD, new_PMD = state.memory[:, 0], out.state.memory[:, 0]
    stretch = (jnp.abs(old_PMD), _log(kept_PMD), jnp.abs(new_PMD - kept_PMD * old_PMD))
    return out.state, _Segment(gates["output"].mean(axis=-1), gates["input"], _log(forget_PMD),
                               open_PNM, stretch)


def _log(gate: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(gate, jnp.finfo(jnp.float32).tiny))
