"""The wavefront: all blocks at once, each on a segment of its own.

Block l can read segment s once block l - 1 has read it and block l itself has read segment s - 1.
So in tick t block l reads segment t - l, and all blocks read in one batched computation over their
stacked parameters. S segments take S + Q - 1 ticks of Q blocks; in the first and the last Q - 1
ticks some blocks read segments without a valid token, which change no state. Blocks with a memory
and blocks without one have other parameters, so that they make two such computations a tick.

Generally the blocks of each stack (those with a memory, and those without) form groups, and the
blocks of a group read the same segment one after the other. On a mesh with stages each stage has a
group of each stack: the groups are the stages of a pipeline, and segments take the place of
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
from lm2_jax.model.lm import LanguageModel, init_state, select_rows, with_axes
from lm2_jax.model.params import init_params
from lm2_jax.types import Array, Params, State, Window


@struct.dataclass
class Signal:
    """What goes from group to group with a segment; of G groups with a leading axis.

    Attributes:
      x_BSD: residual stream, memory tokens included, in the compute dtype.
      valid_BS: bool, False for padding.
      reset_B: bool, rows that begin a new sequence with the segment.
      cut: bool [], whether the gradient does not flow into the state before the segment.
    """

    x_BSD: Array
    valid_BS: Array
    reset_B: Array
    cut: Array


@struct.dataclass
class Stack:
    """A stack of blocks in G groups of g blocks, between two ticks.

    Attributes:
      signal: [G, ...], of the segment that each group has read; x_BSD is the output of the group.
      state: what the blocks carry: memory [G, g, B, ...]; the keys and values of a window
        [G, g, B, W, K, H], and its valid_BW [G, B, W].
    """

    signal: Signal
    state: State


Pipe = tuple[Stack, ...]
"""The stack of the blocks with a memory, if there are some, and that of the others."""


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


def ramp(groups: tuple[int, ...]) -> int:
    """Returns the number of ticks after that in which a segment enters until it leaves.

    A stack passes a segment on to the next stack in the tick in which its last group reads it.
    """
    return sum(groups) - len(groups)


def begin(config: ModelConfig, state: State, batch_size: int, groups: tuple[int, ...]) -> Pipe:
    """Returns the pipe before its first tick.

    Args:
      state: before the first segment.
      batch_size: number of rows of the state.
      groups: number of groups of each stack, a divisor of its number of blocks.
    """
    c, B = config, batch_size
    S = c.segment_length + memories.num_memory_tokens(c)
    pipe = []
    for part, G in zip(parts(c), groups, strict=True):
        signal = Signal(x_BSD=jnp.zeros((G, B, S, c.embed_dim), c.dtype),
                        valid_BS=jnp.zeros((G, B, S), bool), reset_B=jnp.zeros((G, B), bool),
                        cut=jnp.zeros(G, bool))
        pipe.append(Stack(signal, _grouped(state, part, G)))
    return pipe_with_axes(partition.constrain, tuple(pipe))


def end(config: ModelConfig, pipe: Pipe) -> State:
    """Returns the state after the last segment, which every group has read."""
    c = config

    def blocks(a):
        return a.reshape(-1, *a.shape[2:])

    memory = jax.tree.map(blocks, pipe[0].state.memory)
    windows = [stack.state.window for stack in pipe]
    if windows[-1] is None:
        return State(memory=memory, window=None)
    key, value = (jnp.concatenate([blocks(getattr(window, name)) for window in windows])
                  for name in ("key_QBWKH", "value_QBWKH"))
    assert key.shape[0] == c.num_layers
    return State(memory=memory, window=Window(key, value, windows[-1].valid_BW[-1]))


def gathered(model: LanguageModel, variables: Params) -> Params:
    """Returns the variables as the ticks take them.

    Over stages, each device gets all of what its stage needs of the parameters that fsdp splits:
    once, and not at every tick, since a stage has only its part of the blocks. The gradients of
    each tick are split again.
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


def tick(model: LanguageModel, variables: Params, pipe: Pipe, tokens_BT: Array, valid_BT: Array,
         reset_B: Array, cut: Array | bool = False, *, deterministic: bool = True,
         dropout: Array | None = None, opens: bool = False) -> tuple[Pipe, Array, Array]:
    """Lets every group read the segment that the group before it has read in the last tick.

    Args:
      variables: as `gathered` returns them.
      pipe: as `begin` or the last tick returned it.
      tokens_BT: int32, the segment that enters the first group.
      valid_BT: bool, False for padding; all False for no segment.
      reset_B: bool, rows that begin a new sequence with it.
      cut: bool [], whether the gradient does not flow into the state before it.
      deterministic: False applies dropout, whose key is `dropout`.
      opens: whether the third result is computed; else it is 0.

    Returns:
      (pipe, x_BSD of the segment that leaves the last block, how far the memory was open in this
      tick as `read_segments` sums it).
    """
    x_BSD, valid_BS = model.apply(variables, tokens_BT, valid_BT, None, method="embed")
    entering = Signal(x_BSD, valid_BS, reset_B, jnp.asarray(cut))
    stacks, opened, c = [], jnp.zeros(()), model.config
    params = nn.unbox(variables["params"])
    for number, (part, stack) in enumerate(zip(parts(c), pipe, strict=True)):
        G = stack.signal.cut.shape[0]
        signal = jax.tree.map(handing.shifted, stack.signal, entering)
        first = _grouped(init_state(c, x_BSD.shape[0], _window_size(stack)), part, G)
        keys = None if dropout is None else jax.random.split(
            jax.random.fold_in(dropout, number), (G, (part.end - part.first) // G))
        own = jax.tree.map(lambda a, G=G: a.reshape(G, -1, *a.shape[1:]),
                           params[part.name])
        read = functools.partial(_read, c, part.name == "memory_blocks", deterministic, opens)
        x_GBSD, state, opened_G = jax.vmap(read, spmd_axis_name=partition.stage_axis())(
            own, signal, stack.state, first, keys)
        stack = _with_axes(partition.constrain, Stack(signal.replace(x_BSD=x_GBSD), state))
        entering, opened = jax.tree.map(handing.last, stack.signal), opened + opened_G.sum()
        stacks.append(stack)
    leaving_BSD = partition.constrain(entering.x_BSD, "act_batch", "act_len", "act_embed")
    return tuple(stacks), leaving_BSD, opened


def _read(c: ModelConfig, has_memory: bool, deterministic: bool, opens: bool, params: Params,
          signal: Signal, state: State, first: State, keys: Array | None
          ) -> tuple[Array, State, Array]:
    """One group reads a segment: (x_BSD, state, how far the memory was open).

    Args:
      params: of its g blocks.
      state: of its blocks before the segment.
      first: that before a sequence.
      keys: for dropout, [g].
    """
    state = select_rows(signal.reset_B, first, state)
    state = jax.tree.map(lambda a: jnp.where(signal.cut, jax.lax.stop_gradient(a), a), state)
    block = Block(c, has_memory, deterministic)
    shared = segments.block_inputs(c, state.window, signal.valid_BS)
    count = len(jax.tree.leaves(params)[0])
    kv = jax.tree.map(lambda a: a[:count], segments.cached(c, state.window, signal.valid_BS))
    opens = opens and has_memory

    def layer(x_BSD, xs):
        own, memory, kv, key = xs
        out: Any = block.apply({"params": own}, x_BSD, memory, kv, *shared,
                          rngs=None if key is None else {"dropout": key},
                          mutable=["intermediates"] if opens else False)
        (x_BSD, (memory, kv)), sown = out if opens else (out, {})
        opened = memory_open(sown["intermediates"]["memory"], 1) if opens else jnp.zeros(())
        return x_BSD, (memory, kv, opened)

    x_BSD, (memory, kv, opened) = jax.lax.scan(
        layer, signal.x_BSD, (params, state.memory, kv, keys), unroll=kernels.unroll(count))
    window = state.window and segments.update_window(c, state.window, kv[0], kv[1],
                                                     signal.valid_BS)
    return x_BSD, State(memory=memory, window=window), opened.sum()


def memory_open(sown: Params, row_axis: int) -> Array:
    """Returns how far a memory was open to a segment, summed over rows (and blocks).

    This is the mean, over all but blocks and rows, of what the memory sows as "open": u of an LM2
    memory, beta of ARMT, 1 - alpha (1 - beta) of a gated DeltaNet.

    Args:
      sown: what the memory has sown.
      row_axis: number of the axes of "open" that blocks and rows have.
    """
    open_BX, = sown["open"]
    return jnp.sum(jnp.mean(open_BX, axis=tuple(range(row_axis, open_BX.ndim))))


def _grouped(state: State, part: Part, G: int) -> State:
    """Returns the state of a stack's blocks, its first axis split into groups."""
    def of_part(a):
        return a[part.first:part.end].reshape(G, -1, *a.shape[1:])

    memory = jax.tree.map(of_part, state.memory) if part.name == "memory_blocks" else None
    window = state.window
    if window is not None:
        window = Window(of_part(window.key_QBWKH), of_part(window.value_QBWKH),
                        jnp.broadcast_to(window.valid_BW, (G, *window.valid_BW.shape)))
    return State(memory=memory, window=window)


def _window_size(stack: Stack) -> int | None:
    window = stack.state.window
    return None if window is None else window.valid_BW.shape[-1]


def pipe_with_axes(apply: Callable, pipe: Pipe) -> Pipe:
    """Returns the pipe with each array replaced by `apply(array, *logical_axis_names)`.

    The groups are split over stages, and the rest of a state as `with_axes` splits it.
    """
    return tuple(_with_axes(apply, stack) for stack in pipe)


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
