"""`lm2 train`: a run from its config to its results, in the order in which data flows."""

import argparse
import contextlib
import dataclasses
import functools
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer, SaveError
from lm2_jax.commands import arguments, evaluate, train_hooks
from lm2_jax.config import Config, files
from lm2_jax.convert.beginning import Beginning
from lm2_jax.data import batches, feed, sources
from lm2_jax.data.shards.batches import Mixture
from lm2_jax.errors import RunError
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.eval.perplexity import Row as PerplexityRow
from lm2_jax.eval.perplexity_evaluator import PerplexityEvaluator
from lm2_jax.eval.results import Row
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import plots, provenance, tables
from lm2_jax.runtime import compilation_cache, locks, meshes, paths, phases, processes
from lm2_jax.runtime.console import Console, redirect_failed_output_to
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.training import loop, optimizer, profile
from lm2_jax.training import state as train_state
from lm2_jax.training.curriculum import Curriculum
from lm2_jax.training.held_out import HeldOutLoss
from lm2_jax.training.step import make_accuracy, make_loss, make_train_step
from lm2_jax.training.writers import read_lines

EPILOG = arguments.CONFIG_HELP + "\n" + arguments.PROCESSES_HELP


@dataclass(frozen=True)
class Options:
    """Options of one start of a run; none of them is part of its config.

    Attributes:
      profile: first and last step of a trace; None = none.
      accept_changes: resume although data, seed, batch size or optimizer differ.
      init_from: workdir (or WORKDIR:STEP) whose weights a new run begins with; "" = none.
      init_from_hf: folder of the transformers library with a Llama; "" = none.
    """

    profile: tuple[int, int] | None = None
    accept_changes: bool = False
    init_from: str = ""
    init_from_hf: str = ""

    @property
    def beginning(self) -> Beginning:
        return Beginning(self.init_from, self.init_from_hf)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--workdir", required=True, help="folder of the run; created if missing")
    parser.add_argument("--profile", metavar="START:END", help="trace these steps to W/profile")
    parser.add_argument("--accept-changes", action="store_true",
                        help="resume although data, seed, batch size or optimizer differ")
    parser.add_argument("--init-from", default="", metavar="WORKDIR[:STEP]",
                        help="begin a new run with the weights of another one")
    parser.add_argument("--init-from-hf", default="", metavar="FOLDER",
                        help="begin a new run with a Llama of the transformers library: its shape, "
                             "tokenizer and weights; a memory that is added changes nothing at "
                             "first (lm2, delta)")
    arguments.add_processes(parser)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    begun = time.perf_counter()
    compilation_cache.enable()
    options = Options(profile.parse(args.profile) if args.profile else None,
                      args.accept_changes, args.init_from, args.init_from_hf)
    config = arguments.load_config(args, overrides, options.beginning)
    with arguments.joined_processes(args, "lm2 train"):
        train(config, args.workdir, options=options, begun=begun)
    return 0


def train(config: Config, workdir: str | Path, console: Console | None = None,
          options: Options = Options(), begun: float | None = None) -> list[Row | PerplexityRow]:  # noqa: B008
    """Trains in a workdir, or resumes the run there, then evaluates.

    Args:
      begun: when the command began, by time.perf_counter(); None = now.

    Returns:
      The results; none if the run was preempted (SIGTERM) before its last step.
    """
    begun = time.perf_counter() if begun is None else begun
    console = console or Console(quiet=not processes.is_primary())
    workdir = paths.for_checkpoints(workdir)
    redirect_failed_output_to(None if paths.in_bucket(workdir) else workdir / "output.log")
    mesh = meshes.for_training(config)
    locks.require_writable(workdir)
    with locks.locked(workdir, "lm2 train"):
        locks.check_shared(workdir)
        try:
            return _train(config, workdir, mesh, console, options, begun)
        except SaveError as error:
            raise RunError(f"{error}. Once that is fixed, the same command resumes") from error


def _train(config: Config, workdir: Path, mesh: Mesh, console: Console, options: Options,
           begun: float) -> list[Row | PerplexityRow]:
    say = console.print
    num_steps = config.train.num_steps

    # Tokenizer, and the config with its vocabulary size.
    tokenizer, config, changes = processes.primary_first(lambda: workdirs.prepare(
        config, workdir, options.accept_changes, options.beginning.tokenizer()))
    console.print(tables.settings(f"{workdir}: keys that differ from the defaults",
                                      files.changed(config)))

    # Corpus and source of batches.
    corpus = sources.open_training(config, tokenizer)
    row_sharding = partition.named(mesh, "act_batch", None)
    rows = {size: feed.local_rows(row_sharding, size) for size in config.batch_sizes()}
    make_source = functools.partial(
        sources.make_source, segment_length=config.model.segment_length,
        batch_size=config.train.batch_size, num_steps=num_steps, rows=rows)
    source = make_source(config.data, corpus, seed=config.seed)
    source[0]  # what cannot be drawn is reported now, before anything is written
    evaluator = BabilongEvaluator(config, tokenizer, mesh)
    perplexity = PerplexityEvaluator(config, tokenizer, mesh)
    meta = {"source_digest": source.digest(), "tokenizer_digest": tokenizer.digest,
            "config": files.to_dict(config)}
    processes.require_same({"the commit": provenance.commit(), "the data": meta["source_digest"],
                            "the tokenizer": tokenizer.digest} | files.flat(config))

    # Model and training state, new or from the newest valid checkpoint.
    model, tx = LanguageModel(config.model), optimizer.make(config.train)
    abstract_state = train_state.abstract(model, tx, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    curriculum = Curriculum(config.data.curriculum, config.train.advance_accuracy)
    checkpointer = Checkpointer(workdir, config.checkpoint, log=say)
    # The primary process reads every file to verify it; the others take its answer.
    step = processes.broadcast_from_primary(
        checkpointer.select_step(required=False) if processes.is_primary() else 0)
    if step:
        state, position = workdirs.restore_training(checkpointer, step, abstract_state, meta,
                                                    options.accept_changes)
        checkpointer.rename_steps_after(step)
        if not any(line.startswith("data.curriculum") for line in changes):
            curriculum.restore(position)
        say(f"resuming {workdir} after step {step}")
    else:
        state, _ = train_state.create(model, tx, config.seed, mesh)
        if options.beginning:
            params, lines = options.beginning.weights(config.model, workdir, state.params,
                                                      shardings.params, mesh)
            state = dataclasses.replace(state, params=params)
            say("\n".join(lines))
    if config.train.trainable:
        say(optimizer.summary(config.train, state.params))
    if processes.is_primary():
        workdirs.store_config(config, workdir, keep_old=bool(changes))
    if changes:
        say(f"accepted after step {step}: {'; '.join(changes)}. What is lost: no run from the "
            "start repeats this one; the steps until here used the old config "
            f"({workdirs.OLD_CONFIG})")

    # The loop: one turn for each stage of the curriculum that ends early.
    with Preemption() as preemption, contextlib.ExitStack() as to_the_end:
        with contextlib.ExitStack() as until_trained:
            until_trained.callback(checkpointer.close)
            held_out = train_hooks.held_out_batches(config, make_source, corpus, row_sharding, rows)
            stages = train_hooks.stage_evaluator(
                curriculum, held_out, make_accuracy(model, config.train, mesh, shardings.params),
                workdir, step)
            hooks = train_hooks.make(
                config, workdir, step, stages, evaluator, checkpointer, curriculum, meta, console,
                options.profile, preemption, begun)
            if isinstance(corpus, Mixture):
                if (lacking := corpus.without_held_out) and config.train.held_out_batches:
                    say("the loss on held-out documents is not measured: there are none (lm2 data "
                        f"tokenize --held-out) in {', '.join(lacking)}")
                hooks.held_out = HeldOutLoss(
                    make_loss(model, config.train, mesh, shardings.params),
                    held_out(config.data.curriculum[-1], config.train.held_out_batches), workdir,
                    step, hooks.write_held_out, console)
            to_the_end.callback(hooks.watchdog.close)
            until_trained.callback(hooks.close)
            until_trained.enter_context(jax.set_mesh(mesh))
            train_step = make_train_step(model, tx, config.train, mesh, shardings)
            while step < num_steps and not hooks.preempted:
                staged = source.with_curriculum(curriculum.stages)
                made = batches.iterate(staged, step, num_workers=config.data.num_workers)
                sizes = map(staged.rows_at, range(step, num_steps))
                try:
                    state, step = loop.run(
                        train_step, state,
                        preemption.interruptible(feed.ahead(made, sizes, rows, row_sharding)),
                        first_step=step, num_steps=num_steps,
                        save_every=config.checkpoint.every_steps,
                        evaluate_every=config.train.eval_every_steps,
                        check_every=config.train.check_every(), hooks=hooks)
                except loop.NonFiniteError as error:
                    raise RunError(f"{error}. Stopped; the checkpoints in {workdir} are from "
                                   "before.") from error
            if not hooks.preempted:
                hooks.measure_held_out(step, state)
            with hooks.phase(phases.SAVE):
                checkpointer.wait()
            hooks.note_time(step)

        # The results.
        results = None
        if not hooks.preempted:
            if processes.is_primary():
                _plot(workdir, curriculum)
            with hooks.phase(phases.EVAL), contextlib.suppress(Preempted):
                results = evaluate.report([evaluator, perplexity], state.params, step, workdir,
                                          console, hooks.between_batches)
        hooks.note_time(step)
    if results is None:
        say(f"SIGTERM: saved at step {step}; the same command resumes from there")
    say(f"time: {phases.summary(hooks.timer.seconds())}")
    return results or []


def _plot(workdir: Path, curriculum: Curriculum) -> None:
    lines = [line for line in read_lines(workdir / "metrics.jsonl")
             if {"loss", "answer_accuracy"} <= line.keys()]
    plots.plot_training([line["step"] for line in lines], [line["loss"] for line in lines],
                        [line["answer_accuracy"] for line in lines], workdir / "training.png",
                        [(first + 1, segments) for first, segments, *_ in curriculum.stages],
                        workdir.name)
