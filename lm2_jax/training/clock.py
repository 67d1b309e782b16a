"""Throughput and model FLOPs utilisation (MFU)."""

import collections
import time
from collections.abc import Mapping
from typing import TypeVar

import jax

from lm2_jax.config import ModelConfig
from lm2_jax.model import memory as memories

Fact = TypeVar("Fact")

# Dense bf16 peak of one device in FLOP/s, as the manufacturer states it.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA B200": 2250e12,
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12,
    "TPU v5": 459e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12,
}


def flops_per_token(c: ModelConfig) -> float:
    """FLOPs of one training token, forward and backward (3 x forward).

    Attention is halved for causality; recomputation does not count.
    """
    T, D, H = c.segment_length, c.embed_dim, c.head_dim
    kind = memories.kind_of(c)
    S = T + memories.num_memory_tokens(c)
    attention: float = 2 * D * H * (2 * c.num_heads + 2 * c.num_kv_heads)
    attention += 4 * c.num_heads * H * (S / 2 + c.attention_window)
    blocks = c.num_layers * (attention + 6 * D * c.mlp_dim) * S / T
    memory = c.memory.num_layers * kind.flops(c) if kind else 0
    return 3 * (blocks + memory + 2 * D * c.vocab_size)


def peak_flops(devices: list[jax.Device]) -> float | None:
    """The peak FLOP/s of all devices together; None if it is not known, as for a CPU."""
    peak = of_kind(PEAK_FLOPS, devices[0].device_kind)
    return None if peak is None else peak * len(devices)


def of_kind(table: Mapping[str, Fact], kind: str) -> Fact | None:
    """The entry of a table whose key a kind of device begins with, the longest key first; None if
    there is none."""
    found = [prefix for prefix in table if kind.startswith(prefix)]
    return table[max(found, key=len)] if found else None


class Clock:
    """Measures tokens per second over the last `window` steps, without pauses such as saves."""

    def __init__(self, model: ModelConfig, devices: list[jax.Device], window: int = 20):
        self._flops = flops_per_token(model)
        self._peak = peak_flops(devices)
        self._steps = collections.deque(maxlen=window)
        self._last: float | None = None

    def restart(self) -> None:
        """Leaves out the time until the next step, as after a compilation or a save."""
        self._last = None

    def tick(self, tokens: float) -> dict[str, float | None]:
        """Call after each step; returns tokens_per_second and mfu, None while unknown.

        Args:
          tokens: of the step.
        """
        now = time.perf_counter()
        if self._last is not None:
            self._steps.append((tokens, now - self._last))
        self._last = now
        if not self._steps:
            return {"tokens_per_second": None, "mfu": None}
        rate = sum(n for n, _ in self._steps) / sum(t for _, t in self._steps)
        mfu = rate * self._flops / self._peak if self._peak else None
        return {"tokens_per_second": rate, "mfu": mfu}
