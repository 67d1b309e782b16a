"""What a training run does between its steps: saves, evaluations, stages, metrics."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import Config
from lm2_jax.data import feed, sources
from lm2_jax.data.babilong import corpus as corpora
from lm2_jax.eval import identity
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.runtime import phases, processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.interval import Interval
from lm2_jax.runtime.phases import Phases
from lm2_jax.runtime.preemption import Preemption
from lm2_jax.runtime.watchdog import Watchdog
from lm2_jax.training import starts
from lm2_jax.training import state as train_state
from lm2_jax.training.curriculum import Curriculum, Stage
from lm2_jax.training.hooks import PeriodicEvaluation, TrainingHooks
from lm2_jax.training.metrics_log import MetricsLog
from lm2_jax.training.profile import Profile
from lm2_jax.training.stages import HeldOutAccuracy, StageEvaluator
from lm2_jax.training.trackers import Trackers
from lm2_jax.training.writers import JsonLines, read_lines
from lm2_jax.types import Batch

HELD_OUT_BATCHES = 4  # whose accuracy decides whether a stage ends


def held_out_batches(config: Config, make_source, corpus, sharding,
                     rows: Mapping[int, tuple[int, ...]]) -> Callable[..., list[Batch]]:
    """Returns (stage, how many) -> held-out batches of the stage: of stories that training does not
    see, in its prose, or of the held-out split of the corpora; none if these have no such split."""
    drawn_from = sources.open_held_out(config, corpus)
    held_out = drawn_from and make_source(config.data, drawn_from,
                                          seed=corpora.HELD_OUT + config.seed)

    def batches_of(stage: Stage, count: int = HELD_OUT_BATCHES) -> list[Batch]:
        if not held_out:
            return []
        source = held_out.with_curriculum(((0, *stage[1:]),))
        size = source.rows_at(0)
        return [feed.to_devices(source[number], rows[size], size, sharding)
                for number in range(count)]

    return batches_of


def stage_evaluator(curriculum: Curriculum, held_out, accuracy, workdir: Path, first_step: int
                    ) -> StageEvaluator:
    """Decides which stages end, by the accuracy on held-out batches; logs it in the workdir."""
    log = JsonLines(workdir / "curriculum.jsonl", first_step) if processes.is_primary() else None
    return StageEvaluator(curriculum, HeldOutAccuracy(held_out, accuracy), log)


def make(config: Config, workdir: Path, first_step: int, stages: StageEvaluator,
         evaluator: BabilongEvaluator, checkpointer: Checkpointer, curriculum: Curriculum,
         meta: dict, console: Console, traced: tuple[int, int] | None, preemption: Preemption,
         begun: float) -> TrainingHooks:
    """The hooks of a run that begins or goes on after `first_step`; notes that it does.

    Args:
      meta: of every checkpoint.
      traced: first and last step of a trace; None = none.
      begun: when the command began, by time.perf_counter().
    """
    t, time_file = config.train, workdir / phases.FILE
    began = time.time() - (time.perf_counter() - begun)
    earlier = phases.of_earlier_runs(read_lines(workdir / "metrics.jsonl"),
                                     phases.read(time_file), first_step, began)
    timer = Phases(earlier, begun)
    starts.record(workdir, first_step, began)
    num_samples = config.eval.during_training or config.eval.num_samples
    settings = ""
    if t.eval_every_steps:  # what the results depend on besides the parameters
        prompts = identity.prompts_digest(evaluator.prompts(num_samples))
        settings = f"{prompts[:16]}, at most {config.eval.max_new_tokens} new tokens"
    evaluation = PeriodicEvaluation(evaluator, workdir / "eval" / "history.jsonl", first_step,
                                    num_samples, settings, console)
    log = MetricsLog(workdir, config.model, first_step=first_step, num_steps=t.num_steps,
                     console=console, answers=config.data.source != "corpus",
                     trackers=Trackers(config, workdir) if processes.is_primary() else None)
    watchdog = Watchdog(timer, t.stall_seconds, processes.name(), processes.print_on_primary)
    watchdog.step = first_step

    def save_state(step: int, state: train_state.TrainState, measured: dict[str, float]) -> None:
        checkpointer.save(step, state.params, workdirs.training_part(state), meta | {
            "next_step": step, "curriculum": curriculum.to_dict()}, measured)

    def note_time(step: int) -> None:
        if not processes.is_primary():
            return
        try:
            phases.write(time_file, step, timer)
        except OSError as error:  # the disk is full; the next note may fit
            console.print(f"{time_file} could not be written: {error.strerror}")

    note_time(first_step)  # so that a start that fails before its first step is counted too
    return TrainingHooks(
        num_steps=t.num_steps, log=log, timer=timer, watchdog=watchdog, stages=stages,
        evaluation=evaluation, save_state=save_state, poll_save=checkpointer.poll,
        interval=Interval(60 * config.checkpoint.every_minutes),
        keeps_best=bool(config.checkpoint.keep_best), note_time=note_time, preemption=preemption,
        profile=Profile(workdir / "profile", traced, console, first_step))
