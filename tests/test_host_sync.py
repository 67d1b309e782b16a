"""The loop leaves the device alone: batches are there before their step, and nothing is fetched
but the metrics of the step before; the state's buffers are used again."""

import itertools

import jax
import numpy as np
import pytest
from test_loop import Calls
from training import CONFIG, MODEL, B, batch, compiled, one_device

from lm2_jax import partition
from lm2_jax.data import feed
from lm2_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly")  # as what other tests have compiled


class Hooks(Calls):
    def should_stop(self, step, state):
        return False


def test_steps_and_their_batches_cause_no_transfer_that_was_not_asked_for():
    mesh = one_device()
    step, new_state = compiled(CONFIG, MODEL, mesh)
    rows = partition.named(mesh, "act_batch", None)
    batches = feed.ahead(map(batch, itertools.count()), itertools.repeat(B),
                         {B: tuple(range(B))}, rows)

    def drawn():
        while True:
            with jax.transfer_guard("allow"):
                rows_of_step = next(batches)
            yield rows_of_step

    fetched, hooks = [], Hooks()
    hooks.metrics = lambda number, values: fetched.append(
        (number, len([phase for phase in hooks.phases if isinstance(phase, int)])))
    with jax.set_mesh(mesh):
        state = new_state()
        with jax.transfer_guard("disallow"):
            loop.run(step, state, drawn(), first_step=0, num_steps=5, save_every=9,
                     evaluate_every=0, check_every=0, hooks=hooks)
    # The metrics of a step are fetched when the next one has begun; those of the last one at once.
    assert fetched == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 5)]


class OnDevice:
    """A number that only `jax.device_get` may fetch; `begun` counts the steps so far."""

    begun, fetched = 0, []

    def __init__(self, name):
        self.name, self.shape = name, ()

    def __array__(self, dtype=None, copy=None):
        self.fetched.append((self.name, self.begun))
        return np.ones((), np.float32)

    def __bool__(self):
        raise AssertionError(f"{self.name} was fetched for a condition")


def test_nothing_is_fetched_but_the_metrics_of_the_step_before(monkeypatch):
    """Also not from a CPU, where JAX's guard sees no transfer from the device."""
    monkeypatch.setattr(OnDevice, "begun", 0)
    monkeypatch.setattr(OnDevice, "fetched", [])

    def step(state, rows):
        OnDevice.begun += 1
        return OnDevice("state"), {name: OnDevice(OnDevice.begun) for name in (
            "loss", "grad_norm", "param_norm", "row_loss")}

    loop.run(step, OnDevice("state"), itertools.repeat(batch(0)), first_step=0, num_steps=4,
             save_every=9, evaluate_every=0, check_every=0, hooks=Hooks())
    assert OnDevice.fetched == [(number, begun) for number, begun in (
        (1, 2), (2, 3), (3, 4), (4, 4)) for _ in range(4)]


def test_every_buffer_of_the_state_is_donated():
    step, new_state = compiled(CONFIG, MODEL, one_device())
    with jax.set_mesh(one_device()):
        state = new_state()
        program = step.lower(state, batch(0)).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert program.memory_analysis().alias_size_in_bytes >= size
