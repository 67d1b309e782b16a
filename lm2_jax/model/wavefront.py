"""The wavefront: all blocks at once, each on a segment of its own.

Block l can read segment s once block l - 1 has read it and block l itself has read segment s - 1.
So in tick t block l reads segment t - l, and all Q blocks read in one batched computation over
their stacked parameters. S segments take S + Q - 1 ticks. In the first and the last Q - 1 ticks
some blocks have no segment to read; they get one without a valid token, which changes no state.
Blocks with a memory have more parameters than blocks without one, so the two kinds are two stacks
with a batched computation each. The second stack reads in the same tick what leaves the first, so
that its blocks are a tick earlier than said above.

The blocks of a stack may also form fewer groups than there are blocks. The blocks of a group read
the same segment one after the other, and the groups read at once. On a mesh with stages each stage
has one group of each stack: this is pipeline parallelism with segments in the place of
micro-batches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from lm2_jax import partition
from lm2_jax.config import ModelConfig
from lm2_jax.model import handing, kernels, segments
from lm2_jax.model import memory as memories
from lm2_jax.model.block import Block
from lm2_jax.model.linear import unshard
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import init_params
from lm2_jax.model.state import init_state, select_rows, with_axes
from lm2_jax.types import Array, Params, State, Window


@struct.dataclass
class Signal:
    """The input of a group for one segment. The arrays of G groups have a leading axis [G, ...].

    Attributes:
      x_BSD: residual stream, memory tokens included, in the compute dtype.
      valid_BS: bool, False for padding.
      reset_B: bool, rows that begin a new sequence with the segment.
      cut: bool [], whether the gradient is stopped at the state before the segment.
    """

    x_BSD: Array
    valid_BS: Array
    reset_B: Array
    cut: Array


@struct.dataclass
class Stack:
    """A stack of blocks in G groups of g blocks, between two ticks.

    Attributes:
      signal: [G, ...], that of the segment which each group has read last, with the output of the
        group as x_BSD.
      state: the state of the blocks: memory [G, g, B, ...]; keys and values of a window
        [G, g, B, W, K, H], and its valid_BW [G, B, W].
    """

    signal: Signal
    state: State


Pipeline = tuple[Stack, ...]
"""The stack of the blocks with a memory, if there are some, and the stack of the others."""


class Part(NamedTuple):
    """A stack of blocks: its name in the parameters, its first block, and the one after its last.
    """

    name: str
    first: int
    end: int


def parts(config: ModelConfig) -> list[Part]:
    """Returns the stacks of blocks that the model has."""
    P, Q = segments.memory_blocks(config), config.num_layers
    return [part for part in (Part("memory_blocks", 0, P), Part("blocks", P, Q))
            if part.first < part.end]


def fill_ticks(groups: tuple[int, ...]) -> int:
    """Returns the number of ticks in which the pipeline fills, and in which it drains.

    That many ticks after the first group has read a segment, the last group reads it. From the last
    group of a stack to the first group of the next it goes within one tick.
    """
    return sum(groups) - len(groups)


def begin(config: ModelConfig, state: State, batch_size: int, groups: tuple[int, ...]) -> Pipeline:
    """Returns the stacks before the first tick.

    Args:
      state: before the first segment.
      batch_size: number of rows of the state.
      groups: number of groups of each stack, a divisor of its number of blocks.
    """
    c, B = config, batch_size
    S = c.segment_length + memories.num_memory_tokens(c)
    pipeline = []
    for part, G in zip(parts(c), groups, strict=True):
        signal = Signal(x_BSD=jnp.zeros((G, B, S, c.embed_dim), c.dtype),
                        valid_BS=jnp.zeros((G, B, S), bool), reset_B=jnp.zeros((G, B), bool),
                        cut=jnp.zeros(G, bool))
        pipeline.append(Stack(signal, _grouped(state, part, G)))
    return pipeline_with_axes(partition.constrain, tuple(pipeline))


def end(config: ModelConfig, pipeline: Pipeline) -> State:
    """Returns the state after the last segment, which every group has read."""
    c = config

    def blocks(a):  # not reshape(-1, ...), which fails where the window has no places
        return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])

    memory = jax.tree.map(blocks, pipeline[0].state.memory)
    windows = [stack.state.window for stack in pipeline]
    if windows[-1] is None:
        return State(memory=memory, window=None)
    key, value = (jnp.concatenate([blocks(getattr(window, name)) for window in windows])
                  for name in ("key_QBWKH", "value_QBWKH"))
    assert key.shape[0] == c.num_layers
    return State(memory=memory, window=Window(key, value, windows[-1].valid_BW[-1]))


def gathered(model: LanguageModel, variables: Params) -> Params:
    """Returns the variables as `tick` takes them.

    On a mesh with stages the parameters of the blocks are gathered over the mesh axis fsdp here,
    once for all ticks, since a stage has only its part of the blocks. The gradients of each tick
    are scattered over fsdp.
    """
    if partition.num_stages() == 1:
        return variables
    boxed = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))["params"]
    params = nn.unbox(variables["params"])
    whole = {part.name: jax.tree.map(
        lambda box, a: unshard(a, box.names) if isinstance(box, nn.LogicallyPartitioned) else a,
        boxed[part.name], params[part.name],
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
        for part in parts(model.config)}
    return {**variables, "params": {**params, **whole}}


def tick(model: LanguageModel, variables: Params, pipeline: Pipeline, tokens_BT: Array,
         valid_BT: Array, reset_B: Array, cut: Array | bool = False, *, deterministic: bool = True,
         dropout: Array | None = None, write_rates: bool = False) -> tuple[Pipeline, Array, Array]:
    """Lets every group read the segment that the group before it read in the last tick.

    Args:
      variables: as `gathered` returns them.
      pipeline: as `begin` or the last tick returned it.
      tokens_BT: int32, the segment that enters the first group.
      valid_BT: bool, False for padding; all False if no segment enters.
      reset_B: bool, rows that begin a new sequence with that segment.
      cut: bool [], whether the gradient is stopped at the state before that segment.
      deterministic: False applies dropout, whose key is `dropout`.
      write_rates: whether the third result is computed; else it is 0.

    Returns:
      (pipeline, x_BSD that the last block has computed, sum of `write_rate` over all blocks).
    """
    x_BSD, valid_BS = model.apply(variables, tokens_BT, valid_BT, None, method="embed")
    entering = Signal(x_BSD, valid_BS, reset_B, jnp.asarray(cut))
    stacks, rate, c = [], jnp.zeros(()), model.config
    params = nn.unbox(variables["params"])
    for number, (part, stack) in enumerate(zip(parts(c), pipeline, strict=True)):
        G = stack.signal.cut.shape[0]
        signal = jax.tree.map(handing.shifted, stack.signal, entering)
        first = _grouped(init_state(c, x_BSD.shape[0], _window_size(stack)), part, G)
        keys = None if dropout is None else jax.random.split(
            jax.random.fold_in(dropout, number), (G, (part.end - part.first) // G))
        own = jax.tree.map(lambda a, G=G: a.reshape(G, -1, *a.shape[1:]),
                           params[part.name])
        read = functools.partial(_read, c, part.name == "memory_blocks", deterministic, write_rates)
        x_GBSD, state, rate_G = jax.vmap(read, spmd_axis_name=partition.stage_axis())(
            own, signal, stack.state, first, keys)
        stack = _with_axes(partition.constrain, Stack(signal.replace(x_BSD=x_GBSD), state))
        entering, rate = jax.tree.map(handing.last, stack.signal), rate + rate_G.sum()
        stacks.append(stack)
    leaving_BSD = partition.constrain(entering.x_BSD, "act_batch", "act_len", "act_embed")
    return tuple(stacks), leaving_BSD, rate


def _read(c: ModelConfig, has_memory: bool, deterministic: bool, write_rates: bool, params: Params,
          signal: Signal, state: State, first: State, keys: Array | None
          ) -> tuple[Array, State, Array]:
    """Reads a segment with the blocks of one group: (x_BSD, state, sum of `write_rate`).

    Args:
      params: of its g blocks.
      state: of its blocks before the segment.
      first: their state before the first segment of a sequence.
      keys: for dropout, [g]; None for no dropout.
    """
    state = select_rows(signal.reset_B, first, state)
    state = jax.tree.map(lambda a: jnp.where(signal.cut, jax.lax.stop_gradient(a), a), state)
    block = Block(c, has_memory, deterministic)
    shared = segments.block_inputs(c, state.window, signal.valid_BS)
    count = len(jax.tree.leaves(params)[0])
    kv = jax.tree.map(lambda a: a[:count], segments.cached(c, state.window, signal.valid_BS))
    write_rates = write_rates and has_memory

    def layer(x_BSD, xs):
        own, memory, kv, key = xs
        out: Any = block.apply({"params": own}, x_BSD, memory, kv, *shared,
                          rngs=None if key is None else {"dropout": key},
                          mutable=["intermediates"] if write_rates else False)
        (x_BSD, (memory, kv)), sown = out if write_rates else (out, {})
        rate = write_rate(sown["intermediates"]["memory"], 1) if write_rates else jnp.zeros(())
        return x_BSD, (memory, kv, rate)

    x_BSD, (memory, kv, rate) = jax.lax.scan(
        layer, signal.x_BSD, (params, state.memory, kv, keys), unroll=kernels.unroll(count))
    window = state.window and segments.update_window(c, state.window, kv[0], kv[1],
                                                     signal.valid_BS)
    return x_BSD, State(memory=memory, window=window), rate.sum()


def write_rate(sown: Params, row_axis: int) -> Array:
    """Returns the write rate of a memory for a segment, summed over rows (and blocks).

    The write rate, from 0 to 1, is how much of the memory the segment may replace. It is the mean
    over slots or heads of what the memory sows as "open": u of an LM2 memory, beta of ARMT,
    1 - alpha (1 - beta) of a gated DeltaNet.

    Args:
      sown: what the memory has sown.
      row_axis: number of leading axes of "open", which are blocks and rows.
    """
    open_BX, = sown["open"]
    return jnp.sum(jnp.mean(open_BX, axis=tuple(range(row_axis, open_BX.ndim))))


def _grouped(state: State, part: Part, G: int) -> State:
    """Returns the state of a stack's blocks, its first axis split into groups."""
    def of_part(a):
        return a[part.first:part.end].reshape(G, (part.end - part.first) // G, *a.shape[1:])

    memory = jax.tree.map(of_part, state.memory) if part.name == "memory_blocks" else None
    window = state.window
    if window is not None:
        window = Window(of_part(window.key_QBWKH), of_part(window.value_QBWKH),
                        jnp.broadcast_to(window.valid_BW, (G, *window.valid_BW.shape)))
    return State(memory=memory, window=window)


def _window_size(stack: Stack) -> int | None:
    window = stack.state.window
    return None if window is None else window.valid_BW.shape[-1]


def pipeline_with_axes(apply: Callable, pipeline: Pipeline) -> Pipeline:
    """Returns the stacks with each array replaced by `apply(array, *logical_axis_names)`.

    The groups are split over stages, and the other axes of a state as in `with_axes`.
    """
    return tuple(_with_axes(apply, stack) for stack in pipeline)


def _with_axes(apply: Callable, stack: Stack) -> Stack:
    def inside(_, *names):
        return tuple(None if name == "layers" else name for name in names)

    names = with_axes(inside, jax.eval_shape(
        lambda state: jax.tree.map(lambda a: a[0], state), stack.state))
    signal = Signal(
        x_BSD=apply(stack.signal.x_BSD, "layers", "act_batch", "act_len", "act_embed"),
        valid_BS=apply(stack.signal.valid_BS, "layers", "act_batch", "act_len"),
        reset_B=apply(stack.signal.reset_B, "layers", "act_batch"),
        cut=apply(stack.signal.cut, "layers"))
    state = jax.tree.map(lambda a, names: apply(a, "layers", *names), stack.state, names)
    return Stack(signal, state)
