"""What the gates of an LM2 memory do while a model reads: how open they stand, and where."""

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


@dataclass(frozen=True)
class Gates:
    """The gates of one block; each is between 0 (closed) and 1 (open).

    Attributes:
      block: its number, from 0.
      output: mean of the output gate over tokens of prose, of facts, and of the question.
      input, forget: quantiles (QUANTILES) over slots and dimensions, means over segments of prose
        alone, and over segments with a fact.
      half_life: tokens of prose after which half of what a dimension holds is left, if its forget
        gate stands at each of the quantiles.
    """

    block: int
    output: dict[str, float]
    input: dict[str, tuple[float, ...]]
    forget: dict[str, tuple[float, ...]]
    half_life: tuple[float, ...]


def measure(model: LanguageModel, params: Params,
            samples: Iterable[tuple[np.ndarray, np.ndarray]], pad_id: int) -> list[Gates]:
    """Reads samples one by one from the initial state.

    Args:
      samples: tokens, int32 [L], and the kind of each (`data.kinds`), the question behind the
        context.
    """
    T = model.config.segment_length
    tokens_of = {PROSE: "prose", FACT: "facts", QUESTION: "question"}
    output = {name: [] for name in tokens_of.values()}
    inputs, forgets = ({"prose": [], "facts": []} for _ in range(2))
    for tokens, kinds in samples:
        S = -(-len(tokens) // T)
        # So that few lengths are compiled.
        padded = np.full(_rounded(S) * T, pad_id, np.int32)
        padded[:len(tokens)] = tokens
        valid = np.arange(len(padded)) < len(tokens)
        output_SPT, input_SQP, forget_SQP = jax.device_get(_read(
            model, params, padded.reshape(-1, 1, T), valid.reshape(-1, 1, T)))
        output_LP = output_SPT.swapaxes(1, 2).reshape(len(padded), -1)[:len(tokens)]
        for kind, name in tokens_of.items():
            output[name] += list(output_LP[kinds == kind])
        for segment in range(S - 1):  # in the last one is the question
            told = "facts" if FACT in kinds[segment * T:(segment + 1) * T] else "prose"
            inputs[told].append(input_SQP[segment])
            forgets[told].append(forget_SQP[segment])

    def mean(values, block) -> float:
        return float(np.mean([value[block] for value in values])) if values else math.nan

    def quantiles(values, block) -> tuple[float, ...]:
        return tuple(mean([value[number] for value in values], block)
                     for number in range(len(QUANTILES)))

    return [Gates(block, {name: mean(values, block) for name, values in output.items()},
                  *({name: quantiles(values, block) for name, values in gate.items()}
                    for gate in (inputs, forgets)),
                  tuple(T * math.log(0.5) / math.log(forget) if 0 < forget < 1 else math.nan
                        for forget in quantiles(forgets["prose"] or forgets["facts"], block)))
            for block in range(model.config.memory.num_layers)]


def _rounded(count: int) -> int:
    """At most an eighth more."""
    step = 2 ** max(0, count.bit_length() - 4)
    return -(-count // step) * step


@functools.partial(jax.jit, static_argnums=0)
def _read(model: LanguageModel, params: Params, tokens_SBT, valid_SBT):
    """Output gates [S, P, T] (means over dimensions), quantiles of input and forget gates
    [S, Q, P], of a batch of one row."""
    def step(state, x):
        out, sown = model.apply(params, x[0], state, x[1], mutable="intermediates")
        gates = sown["intermediates"]["memory_blocks"]["memory"]
        output_PBTD, input_PBMD, forget_PBMD = (
            gates[name][0] for name in ("output", "input", "forget"))
        quantiles = jnp.asarray(QUANTILES)
        return out.state, (output_PBTD[:, 0].mean(axis=-1),
                           jnp.quantile(input_PBMD[:, 0], quantiles, axis=(1, 2)),
                           jnp.quantile(forget_PBMD[:, 0], quantiles, axis=(1, 2)))

    return jax.lax.scan(step, init_state(model.config, 1), (tokens_SBT, valid_SBT))[1]
