"""The training step: a pure function, compiled with its shardings; the state is donated."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lm2_jax import partition, shards
from lm2_jax.config import TrainConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime.meshes import micro_batches
from lm2_jax.training import optimizer as optimizers
from lm2_jax.training.loss import loss_sums
from lm2_jax.training.state import TrainState
from lm2_jax.types import Batch, Params


def train_step(state: TrainState, batch: Batch, *, model: LanguageModel, config: TrainConfig,
               optimizer: optax.GradientTransformation, num_parts: int = 1
               ) -> tuple[TrainState, dict]:
    """Takes one optimizer step on a batch; returns the next state and metrics.

    The rows are split into `num_parts` micro-batches. Their gradients are summed and then divided
    by the loss weight of the whole batch, so the number of micro-batches changes nothing but
    dropout and rounding. Parameters that `train.trainable` leaves out get no gradients.
    """
    trained, rest = optimizers.split(state.params, config.trainable)
    step_key = jax.random.fold_in(state.rng, state.step)
    cost = jnp.where(state.step >= config.write_cost_from, config.write_cost, 0.0)

    def loss(trained, whole, rows: Batch, number):
        rest, key, cost = whole
        sums = loss_sums(model, optimizers.merge(trained, rest), rows,
                         jax.random.fold_in(key, number), bptt_segments=config.bptt_segments,
                         window_from_segments=config.window_from_segments,
                         remat_segments=config.remat_segments,
                         chunk_tokens=config.loss_chunk_tokens)
        return sums.loss + cost * sums.writes, sums

    def of_part(whole, rows: Batch, number):
        grads, sums = jax.grad(loss, has_aux=True)(*whole, rows, number)
        return (grads, sums.replace(row_loss_B=None)), sums.row_loss_B

    def of_batch(whole, batch: Batch):
        if num_parts == 1:
            return of_part(whole, batch, 0)

        def accumulate(total, x):
            part, row_loss_B = of_part(whole, *x)
            return jax.tree.map(jnp.add, total, part), row_loss_B

        rows = jax.tree.map(lambda a: _micro_batches(a, num_parts), batch)
        xs = (rows, jnp.arange(num_parts))
        first, _ = jax.eval_shape(of_part, whole, *jax.tree.map(lambda a: a[0], xs))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)
        total, row_loss_AB = jax.lax.scan(accumulate, zeros, xs)
        return total, row_loss_AB.swapaxes(0, 1).reshape(-1)

    # Dropout draws numbers for all rows at once.
    summed = of_batch if model.config.dropout else shards.summed_once(of_batch)
    (grads, sums), row_loss = summed((trained, (rest, step_key, cost)), batch)
    weight = jnp.maximum(sums.weight, 1e-6)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = optimizers.merge(optax.apply_updates(trained, updates), rest)
    metrics = {
        "loss": sums.loss / weight,
        "answer_accuracy": sums.hits / jnp.maximum(sums.answers, 1),
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(params),
        "learning_rate": (optimizers.learning_rate(config)(state.step)
                          * optimizers.second_warmup(config, state.opt_state)),
        "tokens": sums.tokens,
        **({"writes": sums.writes} if model.config.memory.closes else {}),
        "row_loss": row_loss,
    }
    state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics


def make_train_step(model: LanguageModel, optimizer: optax.GradientTransformation,
                    config: TrainConfig, mesh: partition.AnyMesh,
                    state_shardings: TrainState) -> jax.stages.Wrapped:
    """Returns `train_step` compiled for the mesh; it donates the state that is passed in."""
    rows = partition.named(mesh, "act_batch", None)

    def step(state: TrainState, batch: Batch):
        return train_step(state, batch, model=model, config=config, optimizer=optimizer,
                          num_parts=micro_batches(config, batch.reset_BS.shape[0], mesh))

    return jax.jit(step, in_shardings=(state_shardings, rows),
                   out_shardings=(state_shardings, partition.named(mesh)), donate_argnums=(0,))


def make_accuracy(model: LanguageModel, config: TrainConfig, mesh: Mesh,
                  params_shardings: Params) -> Callable:
    """Returns (params, batch) -> (number of right answers, number of answers), compiled."""
    return _make_sums(lambda sums: (sums.hits, sums.answers), model, config, mesh,
                      params_shardings)


def make_loss(model: LanguageModel, config: TrainConfig, mesh: Mesh, params_shardings: Params
              ) -> Callable:
    """Returns (params, batch) -> (summed loss, in nats, summed loss weight), compiled."""
    return _make_sums(lambda sums: (sums.loss, sums.weight), model, config, mesh, params_shardings)


def _make_sums(choose: Callable, model: LanguageModel, config: TrainConfig, mesh: Mesh,
               params_shardings: Params) -> Callable:
    """Returns (params, batch) -> choose(LossSums without dropout), compiled."""
    def sums(params: Params, batch: Batch):
        return choose(loss_sums(model, params, batch, jax.random.key(0), bptt_segments=0,
                                remat_segments=False, chunk_tokens=config.loss_chunk_tokens,
                                window_from_segments=config.window_from_segments,
                                deterministic=True))

    return jax.jit(sums, out_shardings=partition.named(mesh), in_shardings=(
        params_shardings, partition.named(mesh, "act_batch", None)))


def _micro_batches(x_B: jax.Array, count: int) -> jax.Array:
    """Reshapes [B, ...] to [count, B / count, ...]: micro-batch a has the rows a, a + count, ...

    The rows are strided, so that each micro-batch has rows of every device.
    """
    x = x_B.reshape(x_B.shape[0] // count, count, *x_B.shape[1:]).swapaxes(0, 1)
    return partition.constrain(x, None, "act_batch", *(None,) * (x.ndim - 2))
