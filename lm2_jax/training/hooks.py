"""What the training loop calls: metrics, evaluations, checkpoints, preemption."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol

from lm2_jax.config.checkpoint import METRICS
from lm2_jax.runtime import logs, phases, processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.interval import Interval
from lm2_jax.runtime.phases import Phases
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.runtime.watchdog import Watchdog
from lm2_jax.training import loop
from lm2_jax.training.held_out import HeldOutLoss
from lm2_jax.training.metrics_log import MetricsLog
from lm2_jax.training.profile import Profile
from lm2_jax.training.stages import StageEvaluator
from lm2_jax.training.state import TrainState
from lm2_jax.training.writers import JsonLines, read_lines
from lm2_jax.types import Params


class Evaluator(Protocol):
    """Evaluates parameters in the middle of a run."""

    def run(self, params: Params, modes: Sequence[str], num_samples: int, *,
            between: Callable[[], None]) -> Iterator[tuple]:
        """Yields (row, predictions) for each task and length, and calls `between` after each
        batch."""


class PeriodicEvaluation:
    """Evaluates the carried memory in the middle of a run; each step once, also across resumes.

    Args:
      path: of a JSON-lines file of the results.
      first_step: steps that are done; later lines in the file are dropped.
      num_samples: of each task and length.
      settings: names everything but the parameters that the results depend on. A step that was
        evaluated with other settings is evaluated again.
    """

    def __init__(self, evaluator: Evaluator, path: Path, first_step: int, num_samples: int,
                 settings: str, console: Console):
        self._evaluator, self._num_samples, self._console = evaluator, num_samples, console
        self._settings = settings
        self.exact_match: float | None = None  # mean over the rows of the last run
        self._evaluated = {line["step"] for line in read_lines(path)
                           if line["step"] <= first_step and line.get("settings") == settings}
        processes.barrier("evaluation history read")  # before the primary process rewrites it
        self._history = JsonLines(path, first_step) if processes.is_primary() else None

    def is_due(self, step: int) -> bool:
        return step not in self._evaluated

    def run(self, step: int, params: Params, between: Callable[[], None]) -> None:
        rows = [row for row, _ in self._evaluator.run(params, ("carried",), self._num_samples,
                                                      between=between)]
        if self._history:
            self._history.write(*({"step": step, "task": row.task, "length": row.length,
                                   "n": row.n, "exact_match": row.exact_match,
                                   "constant_answer": row.constant_answer,
                                   "settings": self._settings} for row in rows))
        for row in rows:
            self._console.print(f"step {step}: {row.task} {row.length} exact match "
                                f"{row.exact_match:.3f} (constant {row.constant_answer:.3f})")
        self.exact_match = fmean(row.exact_match for row in rows) if rows else None
        self._evaluated.add(step)

    def flush(self) -> None:
        if self._history:
            self._history.flush()

    def close(self) -> None:
        if self._history:
            self._history.close()


@dataclass
class TrainingHooks(loop.Hooks):
    """Connects the loop with the parts of a run.

    Attributes:
      num_steps: of the run.
      save_state: (step, state, metrics) -> None: begins to write a checkpoint.
      interval: after which a checkpoint is due, whatever the step.
      keeps_best: whether checkpoints are kept by what was measured at their step.
      poll_save: raises if a checkpoint that is being written has failed.
      note_time: (step) -> None: stores the wall time by phase.
      held_out: None measures no loss on held-out batches.
      preempted: set when the run is asked to end before its last step.
      watchdog: closed by the caller, since it watches the last evaluation too.
    """

    num_steps: int
    log: MetricsLog
    timer: Phases
    watchdog: Watchdog
    stages: StageEvaluator
    evaluation: PeriodicEvaluation
    save_state: Callable[[int, TrainState, dict[str, float]], None]
    interval: Interval
    keeps_best: bool
    poll_save: Callable[[], None]
    note_time: Callable[[int], None]
    profile: Profile
    preemption: Preemption
    held_out: HeldOutLoss | None = None
    preempted: bool = field(default=False, init=False)
    _measured: dict[str, float] = field(default_factory=dict, init=False)  # at the last step

    def phase(self, name: str) -> AbstractContextManager:
        return self.timer.within(name)

    def on_step_start(self, step: int) -> None:
        if self.timer.now in (phases.START, phases.RESTART):
            self.timer.enter(phases.STEP)
        logs.at(step=step)
        self.profile.on_step_start(step)

    def should_stop(self, step: int, state: TrainState) -> bool:
        self.watchdog.step = step
        self.profile.ended(step, state)
        self.preempted = self.preemption.reached() and step < self.num_steps
        return self.preempted

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.poll_save()
        self._measured = {name: values[name] for name in METRICS if name in values}
        self.log.write(step, values, self.stages.segments_at(step), self.timer.metrics())

    def should_end_stage(self, step: int, state: TrainState) -> bool:
        if not self.stages.is_due(step):
            return False
        with self.timer.within(phases.EVAL):
            ends = self.stages.should_end(step, state.params)
        self.log.pause()
        return ends

    def save_is_due(self, step: int) -> bool:
        return self.interval.has_ended(step)

    def save(self, step: int, state: TrainState) -> None:
        if self.keeps_best and step == self.num_steps and not self.preempted:
            self.measure_held_out(step, state)  # so that the last checkpoint can be the best
        for log in (self.log, self.stages, self.evaluation):
            log.flush()  # the lines until here belong to the checkpoint
        with self.timer.within(phases.SAVE):
            self.save_state(step, state, self._measured)
        self.interval.restart()
        self.note_time(step)
        self.log.pause()

    def evaluate(self, step: int, state: TrainState) -> bool:
        self.evaluation.exact_match = None
        self._run_if_due(self.evaluation, step, state)
        if self.evaluation.exact_match is not None:
            self._measured["exact_match"] = self.evaluation.exact_match
        if not self.preempted:
            self.measure_held_out(step, state)
        return self.preempted

    def measure_held_out(self, step: int, state: TrainState) -> None:
        """Measures the loss on held-out batches, if there are any and the step is not done."""
        if self.held_out:
            self._run_if_due(self.held_out, step, state)

    def write_held_out(self, step: int, values: dict[str, float]) -> None:
        """Logs values of held-out batches, with the time so far as every line has it."""
        self._measured |= values
        self.log.write_held_out(step, values | self.timer.metrics())

    def _run_if_due(self, part: PeriodicEvaluation | HeldOutLoss, step: int, state: TrainState
                    ) -> None:
        if not part.is_due(step):
            return
        with self.timer.within(phases.EVAL):
            try:
                part.run(step, state.params, self.between_batches)
            except Preempted:
                self.preempted = True
                return
        self.log.pause()

    def between_batches(self) -> None:
        """Called after each batch of an evaluation.

        Raises:
          Preempted: if the run is asked to end.
        """
        self.timer.enter(phases.EVAL)  # a new phase, so that the watchdog sees progress
        self.preemption.check()

    def close(self) -> None:
        """Closes everything but the watchdog."""
        for part in (self.profile, self.log, self.stages, self.evaluation):
            part.close()
