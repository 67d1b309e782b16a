"""The registry of memories: a new one is added to `KINDS` and to the config's `MEMORY_KINDS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lm2_jax.config import ModelConfig
from lm2_jax.model.memory import armt, delta, lm2, rmt
from lm2_jax.model.memory.base import BlockMemory, MemoryTokens


class Kind(NamedTuple):
    """A memory: a module in each block, a module that adds memory tokens, or both.

    Attributes:
      init_state: (config, B) -> state before the first token: a pytree of arrays [P, B, ...] for P
        blocks if there is a `block`, else [1, B, ...]. No two leaves may share a buffer.
      flops: config -> FLOPs of the forward pass per token and block, without those of running
        memory tokens through the blocks.
      block: class of the module in a block. Its hooks get the state of their block, [B, ...].
      tokens: class of the module that adds memory tokens to a segment. It gets the whole state.
      output: name of the layer of `block` through which the read is added; if its kernel is 0, the
        model computes what it computes without the memory. "" where there is no such layer.
    """

    init_state: Callable[[ModelConfig, int], Any]
    flops: Callable[[ModelConfig], float]
    block: type[BlockMemory] | None = None
    tokens: type[MemoryTokens] | None = None
    output: str = ""


KINDS = {
    "lm2": Kind(lm2.init_state, lm2.flops, block=lm2.LM2Memory, output="o_proj"),
    "rmt": Kind(rmt.init_state, rmt.flops, tokens=rmt.RecurrentTokens),
    "armt": Kind(armt.init_state, armt.flops, block=armt.AssociativeMemory,
                 tokens=armt.WriteTokens),
    "delta": Kind(delta.init_state, delta.flops, block=delta.GatedDeltaNet, output="o_proj"),
}


def kind_of(config: ModelConfig) -> Kind | None:
    """Returns the memory of a model; None if it has none."""
    return KINDS[config.memory.kind] if config.memory.num_layers else None


def num_memory_tokens(config: ModelConfig) -> int:
    """Returns the number of memory tokens that are added to a segment."""
    kind = kind_of(config)
    if kind is None or kind.tokens is None:
        return 0
    return (kind.tokens.before + kind.tokens.after) * config.memory.num_slots
