"""What a training run leaves: metrics, looks at held-out accuracy, evaluations, checkpoints."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import Config
from lm2_jax.data import batches as pipeline
from lm2_jax.data import feed
from lm2_jax.data.babilong import corpus
from lm2_jax.runtime import phases, processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.phases import Phases
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.runtime.progress import Bar
from lm2_jax.runtime.watchdog import Watchdog
from lm2_jax.training import loop
from lm2_jax.training import state as train_state
from lm2_jax.training.clock import Clock
from lm2_jax.training.curriculum import Curriculum
from lm2_jax.training.profile import Profile
from lm2_jax.training.writers import JsonLines, MetricsWriter, read_lines
from lm2_jax.types import Batch, Params

TIME = "time.json"  # in a workdir: what its wall time went to


class Evaluator(Protocol):
    """Evaluates the parameters during a run."""

    def run(self, params: Params, modes: Sequence[str], num_samples: int, **options) -> Iterator:
        """Yields (row, predictions) for each task, length and mode."""


class Examiner:
    """The accuracy on held-out batches of a stage: the same ones at every look."""

    def __init__(self, config: Config, maker: pipeline.SampleMaker, rows: Mapping, sharding,
                 accuracy: Callable):
        self._config, self._maker, self._rows = config, maker, rows
        self._sharding, self._accuracy = sharding, accuracy
        self._batches: dict[tuple[int, ...], list[Batch]] = {}

    def look(self, params: Params, stage: tuple[int, ...]) -> float:
        shape = stage[1:]
        if shape not in self._batches:
            self._batches = {shape: self._made(shape)}  # those of one stage at a time
        found = [self._accuracy(params, batch) for batch in self._batches[shape]]
        hits, answers = np.sum(jax.device_get(found), axis=0)
        return float(hits / max(answers, 1))

    def _made(self, shape: tuple[int, ...]) -> list[Batch]:
        t = self._config.train
        source = pipeline.BatchSource(self._maker, corpus.HELD_OUT + self._config.seed,
                                      t.batch_size, t.advance_batches, self._rows)
        source = source.with_curriculum(((0, *shape),))
        size = source.rows_at(0)
        return [feed.to_devices(source[number], self._rows[size], size, self._sharding)
                for number in range(t.advance_batches)]


class Recorder(loop.Hooks):
    """What the loop reports: to the metrics files, the progress bar and the checkpoints.

    Files are written by one process; to the others the same calls do nothing.

    Attributes:
      phases: what the time goes to.
      left: whether the run is to end before its last step.
      watchdog: closed by the caller, since it watches the last evaluation too.
    """

    def __init__(self, config: Config, workdir: Path, first_step: int, curriculum: Curriculum,
                 examiner: Examiner, evaluator: Evaluator,
                 checkpointer: Checkpointer, meta: dict, console: Console, profile: Profile,
                 preemption: Preemption, begun: float):
        self._config, self._evaluator, self._console = config, evaluator, console
        self._checkpointer, self._meta = checkpointer, meta
        self._curriculum, self._examiner = curriculum, examiner
        self._profile, self._preemption, self._workdir = profile, preemption, workdir
        self.preempted = False
        before = phases.of_earlier_runs(read_lines(workdir / "metrics.jsonl"),
                                        phases.read(workdir / TIME), first_step)
        self.phases = Phases(before, begun)
        self._evaluated = {line["step"] for line in read_lines(workdir / "eval/history.jsonl")
                           if line["step"] <= first_step}
        processes.barrier("read")  # before one of them writes these files
        self._parts = contextlib.ExitStack()
        self.watchdog = Watchdog(self.phases, config.train.stall_seconds, processes.name(),
                                 processes.print_on_primary)
        self.watchdog.step = first_step
        self._clock = Clock(config.model, jax.devices())
        self._bar = Bar("train", config.train.num_steps, first_step, console)
        self._writer = self._looks = self._history = None
        if processes.is_primary():
            self._looks = JsonLines(workdir / "curriculum.jsonl", first_step)
            self._writer = MetricsWriter(workdir, first_step, config.train.tensorboard)
            self._history = JsonLines(workdir / "eval" / "history.jsonl", first_step)
        for part in (self._writer, self._history, self._looks, self._bar):
            self._parts.callback(part.close if part else lambda: None)
        self._segments = 0
        self.note_time(first_step)  # else the time lost until here is forgotten by the next start

    def phase(self, name: str) -> AbstractContextManager:
        return self.phases.within(name)

    def on_step_start(self, step: int) -> None:
        if self.phases.now in (phases.START, phases.RESTART):
            self.phases.enter(phases.STEP)
        self._profile.on_step_start(step)

    def should_stop(self, step: int, state: train_state.TrainState) -> bool:
        self.watchdog.step = step
        self._profile.ended(step, state)
        self.preempted = self._preemption.reached() and step < self._config.train.num_steps
        return self.preempted

    def metrics(self, step: int, values: dict[str, float]) -> None:
        segments = self._curriculum.stage_at(step - 1)[1]
        if segments != self._segments:  # another shape, so this step was compiled
            self._clock.restart()
        self._segments = segments
        self._checkpointer.poll()
        values = values | {"segments": segments} | self._clock.tick(values["tokens"])
        if self._writer:
            self._writer.write(step, values | self.phases.metrics())
        rate = values["tokens_per_second"]
        self._bar.update(step, f"loss {values['loss']:.4f}  answers "
                               f"{values['answer_accuracy']:.3f}  segments {segments}"
                         + (f"  {rate:,.0f} tokens/s" if rate else ""))

    def stage_ends(self, step: int, state: train_state.TrainState) -> bool:
        if not self._curriculum.looks_at(step):
            return False
        with self.phases.within(phases.EVAL):
            stage = self._curriculum.stage_at(step - 1)
            accuracy = self._examiner.look(state.params, stage)
        ends = self._curriculum.ends_at(step, accuracy)
        if self._looks:
            self._looks.write({"step": step, "segments": stage[1], "held_out_accuracy": accuracy,
                               "stage_ends": ends})
        self._clock.restart()
        return ends

    def save(self, step: int, state: train_state.TrainState) -> None:
        for lines in (self._writer, self._looks, self._history):
            if lines:
                lines.flush()  # with the checkpoint their steps are done for good
        with self.phases.within(phases.SAVE):
            self._checkpointer.save(step, state.params, workdirs.training_part(state),
                                    self._meta | {"next_step": step,
                                                  "curriculum": self._curriculum.to_dict()})
        self.note_time(step)
        self._clock.restart()

    def note_time(self, step: int) -> None:
        if not processes.is_primary():
            return
        try:
            phases.write(self._workdir / TIME, step, self.phases)
        except OSError as error:  # a full disk: the next note may fit
            self._console.print(f"{self._workdir / TIME} could not be written: {error.strerror}",
                                highlight=False, soft_wrap=True)

    def evaluate(self, step: int, state: train_state.TrainState) -> bool:
        if step in self._evaluated:
            return False
        e = self._config.eval
        with self.phases.within(phases.EVAL):
            try:
                rows = [row for row, _ in self._evaluator.run(
                    state.params, ("carried",), e.during_training or e.num_samples,
                    between=self.between_batches)]
            except Preempted:
                self.preempted = True
                return True
        if self._history:
            self._history.write(*({"step": step, "task": row.task, "length": row.length,
                                   "n": row.n, "exact_match": row.exact_match,
                                   "constant_answer": row.constant_answer} for row in rows))
        for row in rows:
            self._console.print(f"step {step}: {row.task} {row.length} exact match "
                                f"{row.exact_match:.3f} (constant {row.constant_answer:.3f})",
                                highlight=False)
        self._evaluated.add(step)
        self._clock.restart()
        return False

    def between_batches(self) -> None:
        """Of an evaluation; raises Preempted if it is time to leave."""
        self.phases.enter(phases.EVAL)  # not one long phase, of which the watchdog would warn
        self._preemption.check()

    def close(self) -> None:
        self._profile.close()
        self._parts.close()
