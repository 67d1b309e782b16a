"""`lm2 train`."""

import contextlib
from pathlib import Path

import jax
from rich.console import Console

from lm2_jax import config_file, partition
from lm2_jax.checkpoint import Checkpointer
from lm2_jax.config import Config
from lm2_jax.data import corpus, feed, pipeline
from lm2_jax.eval.results import Row
from lm2_jax.jobs import evaluation
from lm2_jax.jobs import workdir as workdirs
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import plots, tables
from lm2_jax.report.clock import Clock
from lm2_jax.report.progress import Bar
from lm2_jax.report.writers import JsonLines, MetricsWriter, read_lines
from lm2_jax.train import loop, optimizer
from lm2_jax.train import state as train_state
from lm2_jax.train.curriculum import Curriculum
from lm2_jax.train.step import make_train_step


def train(config: Config, workdir: str | Path, console: Console | None = None) -> list[Row]:
    """Trains in a workdir, or goes on where it left off, then evaluates; returns the results."""
    console = console or Console()
    workdir = Path(workdir)
    mesh = workdirs.mesh_of(config.mesh, *config.batch_sizes(), config.eval.batch_size)
    tokens, config = workdirs.prepare(config, workdir)
    console.print(tables.config_table(
        f"{workdir}: what is not the default", config_file.changed(config)))

    sharding = partition.named(mesh, "act_batch", None)
    rows = {size: feed.local_rows(sharding, size) for size in config.batch_sizes()}
    maker = pipeline.SampleMaker(config.data, corpus.training(config, tokens),
                                 config.model.segment_length)
    source = pipeline.BatchSource(maker, config.seed, config.train.batch_size,
                                  config.train.num_steps, rows)
    source.row(0, 0)  # what cannot be drawn is said here, before anything binds the workdir
    evaluator = evaluation.Evaluator(config, tokens, mesh)
    workdirs.store_config(config, workdir)

    model = LanguageModel(config.model)
    state, shardings = train_state.create(model, optimizer.make(config.train), config.seed, mesh)
    checkpointer = Checkpointer(workdir, config.checkpoint)
    meta = {"source_digest": pipeline.digest(source), "tokenizer_digest": tokens.digest,
            "config": config_file.to_dict(config)}
    curriculum = Curriculum(config.data.curriculum, config.train.advance_accuracy,
                            config.train.advance_window)
    first_step = max(checkpointer.steps(), default=0)
    if first_step:
        state, position = workdirs.restore_training(checkpointer, first_step, state, meta)
        curriculum.restore(position)
        console.print(f"resuming {workdir} after step {first_step}", highlight=False)

    with contextlib.ExitStack() as stack:
        stack.callback(checkpointer.close)
        hooks = Recorder(config, workdir, first_step, curriculum, evaluator, checkpointer, meta,
                         console)
        stack.callback(hooks.close)
        stack.enter_context(jax.set_mesh(mesh))
        train_step = make_train_step(model, config.train, mesh, shardings)
        while first_step < config.train.num_steps:
            now = source.with_curriculum(curriculum.stages)
            batches = pipeline.iterate(now, first_step, num_threads=config.data.num_threads,
                                       num_workers=config.data.num_workers)
            sizes = map(now.rows_at, range(first_step, config.train.num_steps))
            state, first_step = loop.run(
                train_step, state, feed.ahead(batches, sizes, rows, sharding),
                first_step=first_step, num_steps=config.train.num_steps,
                save_every=config.checkpoint.every_steps,
                evaluate_every=config.train.eval_every_steps,
                check_every=config.train.advance_accuracy and config.train.advance_window,
                hooks=hooks)
        checkpointer.wait()
    lines = read_lines(workdir / "metrics.jsonl")
    plots.plot_training([line["step"] for line in lines], [line["loss"] for line in lines],
                        [line["answer_accuracy"] for line in lines], workdir / "training.png",
                        [(first + 1, segments) for first, segments, *_ in curriculum.stages])
    return evaluation.report(evaluator, state.params, config.train.num_steps, workdir, console)


class Recorder(loop.Hooks):
    """What the loop reports: to the metrics files, the progress bar and the checkpoints."""

    def __init__(self, config: Config, workdir: Path, first_step: int, curriculum: Curriculum,
                 evaluator: evaluation.Evaluator, checkpointer: Checkpointer, meta: dict,
                 console: Console):
        self._config, self._evaluator, self._console = config, evaluator, console
        self._checkpointer, self._meta, self._curriculum = checkpointer, meta, curriculum
        self._writer = MetricsWriter(workdir, first_step, config.train.tensorboard)
        self._history = JsonLines(workdir / "eval" / "history.jsonl", first_step)
        self._clock = Clock(config.model, jax.devices())
        self._bar = Bar("train", config.train.num_steps, first_step, console)
        self._segments = 0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        segments = self._curriculum.segments_at(step - 1)
        self._curriculum.record(step, values["answer_accuracy"])
        if segments != self._segments:  # another shape, so this step was compiled
            self._clock.restart()
        self._segments = segments
        values = values | {"segments": segments} | self._clock.tick(values["tokens"])
        self._writer.write(step, values)
        rate = values["tokens_per_second"]
        self._bar.update(step, f"loss {values['loss']:.4f}  answers "
                               f"{values['answer_accuracy']:.3f}  segments {segments}"
                         + (f"  {rate:,.0f} tokens/s" if rate else ""))

    def stage_ends(self, step: int) -> bool:
        return self._curriculum.ends_at(step)

    def save(self, step: int, state: train_state.TrainState) -> None:
        self._checkpointer.save(step, state.params, workdirs.training_part(state),
                                self._meta | {"next_step": step,
                                              "curriculum": self._curriculum.to_dict()})
        self._clock.restart()

    def evaluate(self, step: int, state: train_state.TrainState) -> None:
        e = self._config.eval
        for row, _ in self._evaluator.run(state.params, ("carried",),
                                          e.during_training or e.num_samples):
            self._history.write({"step": step, "task": row.task, "length": row.length,
                                 "n": row.n, "exact_match": row.exact_match,
                                 "constant_answer": row.constant_answer})
            self._console.print(f"step {step}: {row.task} {row.length} exact match "
                                f"{row.exact_match:.3f} (constant {row.constant_answer:.3f})",
                                highlight=False)
        self._clock.restart()

    def close(self) -> None:
        for part in (self._writer, self._history, self._bar):
            part.close()
