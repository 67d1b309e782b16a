"""A small model and what trains it for a few steps, for the tests of training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig, TrainConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch

B, T, S = 8, 4, 3
MODEL = ModelConfig(vocab_size=24, embed_dim=16, num_layers=1, num_heads=4, num_kv_heads=2,
                    mlp_dim=24, segment_length=T,
                    memory=MemoryConfig(num_slots=3, num_heads=2, num_layers=1))
CONFIG = TrainConfig(num_steps=10, warmup_steps=0, learning_rate=1e-3, remat_segments=False,
                     weight_decay=0.5)


def batch(seed, rows=B):
    """Rows of different lengths with holes, some of two samples; weights 0, 0.25 and 1."""
    rng = np.random.default_rng(seed)
    valid_BL = np.arange(S * T) < rng.integers(T, S * T + 1, (rows, 1))
    valid_BL &= rng.random((rows, S * T)) < 0.9
    reset_BS = rng.random((rows, S)) < 0.3
    reset_BS[:, 0] = True
    weight_BL = rng.choice([0, 0.25, 1], (rows, S * T)).astype(np.float32) * valid_BL
    return Batch(tokens_BL=rng.integers(0, 24, (rows, S * T), np.int32),
                 targets_BL=rng.integers(0, 24, (rows, S * T), np.int32),
                 loss_weight_BL=weight_BL, answer_BL=weight_BL == 1,
                 valid_BL=valid_BL, reset_BS=reset_BS)


def one_device():
    return partition.make_mesh({}, jax.devices()[:1])


@dataclasses.dataclass
class Run:
    """What some steps did: parameters before and after, states that went in, the last, metrics."""

    before: dict
    given: list
    state: train_state.TrainState
    metrics: list

    @property
    def after(self):
        return jax.device_get(self.state.params)


@functools.cache
def first_state(model, trainable=()):
    """Of one device; its copies on a mesh are made faster than it is born there."""
    tx = optimizer.make(dataclasses.replace(CONFIG, trainable=trainable))
    return train_state.create(LanguageModel(model), tx, 0, one_device())[0]


@functools.cache
def compiled(config, model, mesh):
    """The step, and what makes a new state for it to take."""
    state = first_state(model, config.trainable)
    abstract = train_state.abstract(LanguageModel(model), optimizer.make(config), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings)
    return (make_train_step(LanguageModel(model), optimizer.make(config), config, mesh, shardings),
            lambda: copy(jax.device_put(state, shardings)))


def train(config=CONFIG, model=MODEL, mesh=None, batches=None):
    """Three steps, or one for each batch."""
    mesh = mesh or one_device()
    step, new_state = compiled(config, model, mesh)
    with jax.set_mesh(mesh):
        state = new_state()
        run = Run(jax.tree.map(np.array, state.params), [], state, [])
        for rows in batches or map(batch, range(3)):
            run.given.append(run.state)
            run.state, values = step(run.state, rows)
            run.metrics.append(jax.device_get(values))
    return run


plain = functools.cache(train)


def furthest(tree, other):
    """The largest difference of any two leaves, relative to the largest value of each."""
    return max(jax.tree.leaves(jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - b).max() / (np.abs(b).max() + 1e-12)),
        tree, other)))
