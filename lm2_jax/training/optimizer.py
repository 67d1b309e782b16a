"""AdamW with warm-up and cosine decay, clipped by the global norm."""

import jax
import optax

from lm2_jax.config import TrainConfig

DECAYED = ("kernel", "embedding")


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then cosine decay to the final rate."""
    warmup = min(config.warmup_steps, config.num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate, peak_value=config.learning_rate,
        warmup_steps=warmup, decay_steps=config.num_steps,
        end_value=min(config.final_learning_rate, config.learning_rate))


def decay_mask(params):
    """Returns True for the parameters with weight decay: matrices, not norms and biases."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(key, "key", None) in DECAYED for key in path), params)


def make(config: TrainConfig) -> optax.GradientTransformation:
    """Returns AdamW after clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config), b1=config.beta1, b2=config.beta2,
                    weight_decay=config.weight_decay, mask=decay_mask))
