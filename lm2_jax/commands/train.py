"""`lm2 train`."""

import contextlib
import functools
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from lm2_jax import partition
from lm2_jax.checkpoint import transplant
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.commands import evaluate
from lm2_jax.config import Config, files
from lm2_jax.data import batches as pipeline
from lm2_jax.data import feed
from lm2_jax.data.babilong import corpus
from lm2_jax.eval.results import Row
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import plots, provenance, tables
from lm2_jax.runtime import locks, meshes, paths, phases, processes
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.training import loop, optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.curriculum import Curriculum
from lm2_jax.training.profile import Profile
from lm2_jax.training.recorder import Examiner, Recorder
from lm2_jax.training.step import make_accuracy, make_train_step
from lm2_jax.training.writers import read_lines
from lm2_jax.types import Params


@dataclass(frozen=True)
class Options:
    """Of one start of a run; none of them is part of its config.

    Attributes:
      profile: first and last step of a trace; None = none.
      accept_changes: go on although data, seed, batch size or optimizer differ.
      init_from: workdir (or WORKDIR:STEP) whose weights a new run begins with; "" = none.
    """

    profile: tuple[int, int] | None = None
    accept_changes: bool = False
    init_from: str = ""


def train(config: Config, workdir: str | Path, console: Console | None = None,
          options: Options = Options(), begun: float | None = None) -> list[Row]:  # noqa: B008
    """Trains in a workdir, or goes on where it left off, then evaluates.

    Args:
      begun: when the command did, by time.perf_counter(); None = now.

    Returns:
      The results; none if the run was asked to leave (SIGTERM) before its last step.
    """
    begun = time.perf_counter() if begun is None else begun
    console = console or Console(quiet=not processes.is_primary())
    workdir = paths.for_checkpoints(workdir)
    mesh = meshes.for_training(config)
    locks.require_writable(workdir)
    with locks.locked(workdir, "lm2 train"):
        locks.check_shared(workdir)
        return _train(config, workdir, mesh, console, options, begun)


def _train(config: Config, workdir: Path, mesh: Mesh, console: Console, options: Options,
           begun: float) -> list[Row]:
    source_of_weights = options.init_from and transplant.split_source(options.init_from)[0]
    tokens, config, changes = processes.primary_first(lambda: workdirs.prepare(
        config, workdir, options.accept_changes,
        source_of_weights and source_of_weights / "tokenizer.json"))
    console.print(tables.config_table(
        f"{workdir}: what is not the default", files.changed(config)))

    sharding = partition.named(mesh, "act_batch", None)
    rows = {size: feed.local_rows(sharding, size) for size in config.batch_sizes()}
    drawn_from = corpus.training(config, tokens)
    maker = pipeline.SampleMaker(config.data, drawn_from, config.model.segment_length)
    source = pipeline.BatchSource(maker, config.seed, config.train.batch_size,
                                  config.train.num_steps, rows)
    source.row(0, 0)  # what cannot be drawn is said here, before anything binds the workdir
    meta = {"source_digest": pipeline.digest(source), "tokenizer_digest": tokens.digest,
            "config": files.to_dict(config)}
    processes.require_same({"the commit": provenance.commit(), "the data": meta["source_digest"],
                               "the tokenizer": tokens.digest} | files.flat(config))
    evaluator = evaluate.Evaluator(config, tokens, mesh)
    model = LanguageModel(config.model)
    state, shardings = train_state.create(model, optimizer.make(config.train), config.seed, mesh)
    checkpointer = Checkpointer(workdir, config.checkpoint, log=functools.partial(
        console.print, highlight=False, markup=False, soft_wrap=True))
    t = config.train
    curriculum = Curriculum(config.data.curriculum, t.advance_accuracy, t.advance_patience)
    examiner = Examiner(config, pipeline.SampleMaker(
        config.data, corpus.validation(config, drawn_from), config.model.segment_length), rows,
        sharding, make_accuracy(model, t, mesh, shardings.params))
    # One process reads every file for all.
    first_step = processes.broadcast_from_primary(
        checkpointer.select_step(required=False) if processes.is_primary() else 0)
    if first_step:
        state, position = workdirs.restore_training(checkpointer, first_step, state, meta,
                                                    options.accept_changes)
        checkpointer.rename_steps_after(first_step)
        if not any(line.startswith("data.curriculum") for line in changes):
            curriculum.restore(position)
        console.print(f"resuming {workdir} after step {first_step}", highlight=False)
    elif options.init_from:
        params, lines = transplant.weights_from(options.init_from, workdir, state.params,
                                                shardings.params, mesh)
        state = state.replace(params=params)
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if processes.is_primary():
        workdirs.store_config(config, workdir, keep_old=bool(changes))
    if changes:
        console.print(f"accepted after step {first_step}: {'; '.join(changes)}. Lost: no run from "
                      "the start repeats this one; the steps until there are of the old config "
                      f"({workdirs.OLD_CONFIG})", highlight=False, markup=False, soft_wrap=True)

    with Preemption() as preemption, contextlib.ExitStack() as to_the_end:
        with contextlib.ExitStack() as stack:
            stack.callback(checkpointer.close)
            hooks = Recorder(config, workdir, first_step, curriculum, examiner, evaluator,
                             checkpointer, meta, console,
                             Profile(workdir / "profile", options.profile, console, first_step),
                             preemption, begun)
            to_the_end.callback(hooks.watchdog.close)
            stack.callback(hooks.close)
            stack.enter_context(jax.set_mesh(mesh))
            train_step = make_train_step(model, config.train, mesh, shardings)
            while first_step < config.train.num_steps and not hooks.preempted:
                now = source.with_curriculum(curriculum.stages)
                batches = pipeline.iterate(now, first_step, num_threads=config.data.num_threads,
                                           num_workers=config.data.num_workers)
                sizes = map(now.rows_at, range(first_step, config.train.num_steps))
                state, first_step = loop.run(
                    train_step, state, feed.ahead(batches, sizes, rows, sharding),
                    first_step=first_step, num_steps=config.train.num_steps,
                    save_every=config.checkpoint.every_steps,
                    evaluate_every=config.train.eval_every_steps,
                    check_every=(t.advance_accuracy or t.advance_patience) and t.advance_every,
                    hooks=hooks)
            with hooks.phase(phases.SAVE):
                checkpointer.wait()
            hooks.note_time(first_step)
        results = None if hooks.preempted else _evaluate(evaluator, state.params, first_step,
                                                         workdir, console, hooks, curriculum)
        hooks.note_time(first_step)
    if results is None:
        console.print(f"SIGTERM: saved at step {first_step}; the same command goes on from there",
                      highlight=False)
    console.print(f"time: {phases.summary(hooks.phases.seconds())}", highlight=False,
                  soft_wrap=True)
    return results or []


def _evaluate(evaluator: evaluate.Evaluator, params: Params, step: int, workdir: Path,
              console: Console, hooks: Recorder, curriculum: Curriculum) -> list[Row] | None:
    """The results at the end; None if the run was asked to leave before all were there."""
    if processes.is_primary():
        _plot(workdir, curriculum)
    with hooks.phase(phases.EVAL), contextlib.suppress(Preempted):
        return evaluate.report(evaluator, params, step, workdir, console,
                                 hooks.between_batches)
    return None


def _plot(workdir: Path, curriculum: Curriculum) -> None:
    lines = read_lines(workdir / "metrics.jsonl")
    plots.plot_training([line["step"] for line in lines], [line["loss"] for line in lines],
                        [line["answer_accuracy"] for line in lines], workdir / "training.png",
                        [(first + 1, segments) for first, segments, *_ in curriculum.stages])
