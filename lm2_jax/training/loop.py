"""The loop around the training step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import jax
import numpy as np

from lm2_jax.errors import RunError
from lm2_jax.runtime.preemption import Preempted
from lm2_jax.training.state import TrainState
from lm2_jax.types import Batch


class NonFiniteError(RunError):
    """Loss, gradient or parameters of a step are not finite; they were not saved."""


class Hooks(Protocol):
    """What the loop calls."""

    def phase(self, name: str) -> AbstractContextManager:
        """Attributes the time inside the context to a phase: "data", "compile" or "step". A nested
        phase takes its time from the one around it."""

    def on_step_start(self, step: int) -> None:
        """Called before a step is dispatched."""

    def should_stop(self, step: int, state: TrainState) -> bool:
        """Called after every step; returns True to save now and end the run."""

    def save_is_due(self, step: int) -> bool:
        """Called after every step; returns True to save now, beside the steps of `save_every`."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Called once for each step, in order, with its metrics."""

    def should_end_stage(self, step: int, state: TrainState) -> bool:
        """Called after every `check_every` steps, if not 0; returns True if the loop is to end, so
        that the run goes on with other batches."""

    def save(self, step: int, state: TrainState) -> None:
        """Called after every `save_every` steps and after the last one; after `evaluate`, so that
        the evaluation due at a saved step is done."""

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Called after every `evaluate_every` steps but the last. Skips steps already evaluated.
        Returns True if interrupted by preemption: the loop then saves and ends."""


def run(train_step: Callable, state: TrainState, batches: Iterator[Batch], *, first_step: int,
        num_steps: int, save_every: int, evaluate_every: int, check_every: int, hooks: Hooks
        ) -> tuple[TrainState, int]:
    """Trains from `first_step` steps done to `num_steps`, or to where a stage ends early.

    Metrics are fetched one step late, so that the host never waits for the device. Only before a
    save or a check does it wait for the step itself: a state that is not finite, or that came of a
    loss or gradient that is not, is never saved.

    If `batches` raises `Preempted`, the state of the last step is saved unless it was already.
    Where `hooks.should_stop` or `hooks.evaluate` returns True, the state is saved at once; an
    evaluation that was due at that step is done first when the run resumes.

    Returns:
      The state, and the steps done.

    Raises:
      NonFiniteError: naming the step and the samples.
    """
    def evaluation_is_due(step: int) -> bool:
        return bool(evaluate_every) and 0 < step < num_steps and step % evaluate_every == 0

    if evaluation_is_due(first_step) and hooks.evaluate(first_step, state):
        return state, first_step
    pending, compiled, saved = None, set(), first_step
    for step in range(first_step + 1, num_steps + 1):
        try:
            with hooks.phase("data"):
                batch = next(batches)
        except Preempted:
            done = step - 1
            if pending:
                report(*pending, hooks)
            if hooks.should_stop(done, state) and done > saved:
                hooks.save(done, state)
            return state, done
        shape = batch.tokens_BL.shape
        hooks.on_step_start(step)
        with (hooks.phase("step" if shape in compiled else "compile"),
              jax.profiler.StepTraceAnnotation("train", step_num=step)):
            state, metrics = train_step(state, batch)
        compiled.add(shape)
        with hooks.phase("step"):
            if pending:
                report(*pending, hooks)
            pending = (step, metrics)
            stop = hooks.should_stop(step, state)
            due = hooks.save_is_due(step)
            save = step % save_every == 0 or step == num_steps or stop or due
            evaluate = evaluation_is_due(step) and not stop
            check = check_every and step % check_every == 0
            if save or evaluate or check:
                report(*pending, hooks)
                pending = None
        ended = check and hooks.should_end_stage(step, state)
        stop = stop or evaluate and hooks.evaluate(step, state)
        if save or stop:
            hooks.save(step, state)
            saved = step
        if ended or stop:
            return state, step
    return state, num_steps


def report(step: int, metrics: dict, hooks: Hooks) -> None:
    """Fetches the metrics of a step, checks that they are finite and passes them to the hooks."""
    metrics = jax.device_get(metrics)
    row_loss = metrics.pop("row_loss")
    values = {name: float(value) for name, value in metrics.items()}
    if not all(np.isfinite(values[name]) for name in ("loss", "grad_norm", "param_norm")):
        bad = np.flatnonzero(~np.isfinite(row_loss))
        bad = bad if bad.size else np.arange(len(row_loss))
        raise NonFiniteError(
            f"step {step}: loss {values['loss']:g}, norm of the gradient "
            f"{values['grad_norm']:g}, of the parameters {values['param_norm']:g}; samples "
            f"(batch {step - 1}, rows {', '.join(map(str, bad))})")
    hooks.metrics(step, values)
