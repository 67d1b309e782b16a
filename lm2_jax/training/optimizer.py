"""AdamW with warm-up and cosine decay, clipped by the global norm."""

import functools

import jax
import optax

from lm2_jax.config import TrainConfig

DECAYED = ("kernel", "embedding")
GATES = "gate", "route"  # parts of the names of a memory's gates


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then cosine decay to the final rate."""
    warmup = min(config.warmup_steps, config.num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate, peak_value=config.learning_rate,
        warmup_steps=warmup, decay_steps=config.num_steps,
        end_value=min(config.final_learning_rate, config.learning_rate))


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
    """Returns AdamW after clipping by the global norm."""
    mask = functools.partial(decay_mask, decay_gates=config.decay_gates)
    adamw = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config), b1=config.beta1, b2=config.beta2,
                    weight_decay=config.weight_decay, mask=mask))
    factor = config.gate_learning_rate_factor

    def update(grads, state, params=None):
        updates, state = adamw.update(grads, state, params)
        if factor != 1:
            updates = jax.tree.map(lambda update, gate: factor * update if gate else update,
                                   updates, gate_mask(updates))
        return updates, state

    # The state is that of AdamW for every factor, so that a run can be resumed with another one.
    return optax.GradientTransformation(adamw.init, update)
