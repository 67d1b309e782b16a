"""The memories by name: the only place that knows which kinds there are."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lm2_jax.config import ModelConfig
from lm2_jax.model.memory import armt, lm2, rmt
from lm2_jax.model.memory.base import BlockMemory, MemoryTokens


class Kind(NamedTuple):
    """A memory: what stands beside each of its blocks, what at the ends of a segment, or both.

    Attributes:
      init_state: (config, B) -> what it carries before the first token: a pytree whose leaves
        have the rows on their second axis, and the blocks on the first if `block` is there.
      flops: config -> FLOPs of the forward pass a token and block, without its share in running
        memory tokens through the blocks.
      block: module of one block; it is given its own part of the state.
      tokens: module that puts memory tokens round a segment; it is given the whole state where
        there is no `block`.
    """

    init_state: Callable[[ModelConfig, int], Any]
    flops: Callable[[ModelConfig], float]
    block: type[BlockMemory] | None = None
    tokens: type[MemoryTokens] | None = None


KINDS = {
    "lm2": Kind(lm2.init_state, lm2.flops, block=lm2.LM2Memory),
    "rmt": Kind(rmt.init_state, rmt.flops, tokens=rmt.RecurrentTokens),
    "armt": Kind(armt.init_state, armt.flops, block=armt.AssociativeMemory,
                 tokens=armt.WriteTokens),
}


def of(config: ModelConfig) -> Kind | None:
    """The memory of a model; None for a plain Llama."""
    return KINDS[config.memory.kind] if config.memory.num_layers else None


def num_tokens(config: ModelConfig) -> int:
    """How many memory tokens stand round a segment."""
    kind = of(config)
    ends = (kind.tokens.before + kind.tokens.after) if kind and kind.tokens else 0
    return ends * config.memory.num_slots
