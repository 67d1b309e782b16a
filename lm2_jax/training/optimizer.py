"""AdamW with warm-up and cosine decay, clipped by the global norm."""

import fnmatch
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from lm2_jax.config import TrainConfig
from lm2_jax.errors import UserError
from lm2_jax.types import Params

DECAYED = ("kernel", "embedding")
SCHEDULE = "ScaleByScheduleState"
GATES = "gate", "route"  # parts of the names of a memory's gates


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then cosine decay to the final rate."""
    warmup = min(config.warmup_steps, config.num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate, peak_value=config.learning_rate,
        warmup_steps=warmup, decay_steps=config.num_steps,
        end_value=min(config.final_learning_rate, config.learning_rate))


def second_warmup(config: TrainConfig, opt_state: optax.OptState) -> jax.Array:
    """Returns the factor on the learning rate of the next step, float32 [].

    It is 1 unless the state comes from `at_step`: then it rises linearly to 1 over the warm-up
    steps, since the first updates of new moments are as large as Adam allows.
    """
    moments, steps = _count(opt_state, "ScaleByAdamState"), _count(opt_state, SCHEDULE)
    if moments is None or steps is None:  # an optimizer of the caller's
        return jnp.ones(())
    rising = (moments + 1) / (config.warmup_steps + 1)
    return jnp.where(moments == steps, 1.0, jnp.minimum(1.0, rising))


def at_step(opt_state: optax.OptState, step: int) -> optax.OptState:
    """Returns a new optimizer state whose learning rate is that of a run after `step` steps."""
    return optax.tree.set(opt_state, _of(SCHEDULE), count=jnp.int32(step))


def _count(opt_state: optax.OptState, kind: str) -> jax.Array | None:
    return optax.tree.get(opt_state, "count", filtering=_of(kind))


def _of(kind: str):
    """Selects the fields of the optimizer states of one class."""
    return lambda path, _: getattr(path[-1], "tuple_name", "") == kind


def split(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
    """Returns the variables that are trained and those that stay as they are, as two trees.

    Args:
      params: the model's variables, boxed or not.
      patterns: `train.trainable`; a path is as "memory_blocks/memory/o_proj/kernel".

    Raises:
      UserError: if a pattern matches no path.
    """
    flat = traverse_util.flatten_dict(params)
    paths = {path: "/".join(path).removeprefix("params/") for path in flat}
    for pattern in patterns:
        if not fnmatch.filter(paths.values(), pattern):
            raise UserError(f"train.trainable: no parameter has a path that matches {pattern!r}; "
                            f"paths: {', '.join(sorted(paths.values()))}")
    trained = {path: leaf for path, leaf in flat.items()
               if not patterns or any(fnmatch.fnmatchcase(paths[path], p) for p in patterns)}
    rest = {path: leaf for path, leaf in flat.items() if path not in trained}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(rest)


def summary(config: TrainConfig, params: Params) -> str:
    """Returns a line with the numbers of parameters that are trained and that are not."""
    trained, rest = (sum(leaf.size for leaf in jax.tree.leaves(tree))
                     for tree in split(params, config.trainable))
    return (f"training {trained:,} of {trained + rest:,} parameters (train.trainable: "
            f"{', '.join(config.trainable)}); {rest:,} stay as they are")


def merge(trained: Params, rest: Params) -> Params:
    """Returns the tree that `split` took apart."""
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(trained)
                                        | traverse_util.flatten_dict(rest))


def decay_mask(params, *, decay_gates: bool = True):
    """Returns True for the parameters with weight decay: matrices, not norms and biases, and the
    matrices of gates only if `decay_gates`."""
    def decays(path, _) -> bool:
        return (any(getattr(key, "key", None) in DECAYED for key in path)
                and (decay_gates or not _is_gate(path)))

    return jax.tree_util.tree_map_with_path(decays, params)


def gate_mask(params):
    """Returns True for the parameters of a memory's gates, biases included."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_gate(path), params)


def _is_gate(path) -> bool:
    names = [str(getattr(key, "key", "")) for key in path]
    return "memory" in names and any(gate in name for name in names for gate in GATES)


def make(config: TrainConfig) -> optax.GradientTransformation:
    """Returns AdamW after clipping by the global norm.

    Its `init` takes all variables, and has moments of those alone that are trained; its `update`
    takes the gradients of these.
    """
    mask = functools.partial(decay_mask, decay_gates=config.decay_gates)
    adamw = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config), b1=config.beta1, b2=config.beta2,
                    weight_decay=config.weight_decay, mask=mask))

    def init(params):
        return _stored(adamw.init(split(params, config.trainable)[0]), config.moments_dtype)

    def update(grads, state, params=None):
        warmup = second_warmup(config, state)
        updates, state = adamw.update(grads, _stored(state, "float32"), params)
        state = _stored(state, config.moments_dtype)

        def scaled(update, is_gate):
            return update * (warmup * config.gate_learning_rate_factor if is_gate else warmup)

        return jax.tree.map(scaled, updates, gate_mask(updates)), state

    # The state is that of AdamW for every factor, so that a run can be resumed with another one.
    return optax.GradientTransformation(init, update)


def _stored(opt_state: optax.OptState, dtype: str) -> optax.OptState:
    """Returns the optimizer state with its moments in a dtype.

    To bfloat16 they are rounded up or down at random, so that they are right on average: an update
    of the second moment is often smaller than half the distance to the next number, and would be
    lost where it is rounded to the nearest one.
    """
    def stored(part):
        if not isinstance(part, optax.ScaleByAdamState):
            return part
        mu, nu = (jax.tree.map(lambda leaf: leaf.astype(dtype) if dtype == "float32" else
                               _rounded(leaf, part.count), moments)
                  for moments in (part.mu, part.nu))
        return part._replace(mu=mu, nu=nu)

    return jax.tree.map(stored, opt_state,
                        is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState))


def _rounded(x: jax.Array, step: jax.Array) -> jax.Array:
    """Returns float32 numbers as bfloat16, each the one below or above, with x as their mean.

    What is random is a hash of the number and the step (the last part of MurmurHash3), which every
    device computes for its own part and in the same pass.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    hashed = bits ^ (jnp.uint32(0x9E3779B1) * step.astype(jnp.uint32))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashed = (hashed ^ (hashed >> shift)) * jnp.uint32(factor)
    noise = hashed >> 16
    return jax.lax.bitcast_convert_type(((bits + noise) >> 16).astype(jnp.uint16), jnp.bfloat16)
