"""`lm2 train`."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from lm2_jax import config_file, partition
from lm2_jax.checkpoint import Checkpointer
from lm2_jax.config import Config
from lm2_jax.data import corpus, feed, pipeline
from lm2_jax.eval.results import Row
from lm2_jax.jobs import evaluation, meshes
from lm2_jax.jobs import workdir as workdirs
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import plots, tables
from lm2_jax.report.clock import Clock
from lm2_jax.report.progress import Bar
from lm2_jax.report.writers import JsonLines, MetricsWriter, read_lines
from lm2_jax.train import loop, optimizer
from lm2_jax.train import state as train_state
from lm2_jax.train.curriculum import Curriculum
from lm2_jax.train.step import make_accuracy, make_train_step
from lm2_jax.types import Batch, Params


def train(config: Config, workdir: str | Path, console: Console | None = None) -> list[Row]:
    """Trains in a workdir, or goes on where it left off, then evaluates; returns the results."""
    console = console or Console()
    workdir = Path(workdir)
    mesh = meshes.for_training(config)
    tokens, config = workdirs.prepare(config, workdir)
    console.print(tables.config_table(
        f"{workdir}: what is not the default", config_file.changed(config)))

    sharding = partition.named(mesh, "act_batch", None)
    rows = {size: feed.local_rows(sharding, size) for size in config.batch_sizes()}
    drawn_from = corpus.training(config, tokens)
    maker = pipeline.SampleMaker(config.data, drawn_from, config.model.segment_length)
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
    t = config.train
    curriculum = Curriculum(config.data.curriculum, t.advance_accuracy, t.advance_patience)
    examiner = Examiner(config, pipeline.SampleMaker(
        config.data, corpus.validation(config, drawn_from), config.model.segment_length), rows,
        sharding, make_accuracy(model, t, mesh, shardings.params))
    first_step = max(checkpointer.steps(), default=0)
    if first_step:
        state, position = workdirs.restore_training(checkpointer, first_step, state, meta)
        curriculum.restore(position)
        console.print(f"resuming {workdir} after step {first_step}", highlight=False)

    with contextlib.ExitStack() as stack:
        stack.callback(checkpointer.close)
        hooks = Recorder(config, workdir, first_step, curriculum, examiner, evaluator,
                         checkpointer, meta, console)
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
                check_every=(t.advance_accuracy or t.advance_patience) and t.advance_every,
                hooks=hooks)
        checkpointer.wait()
    lines = read_lines(workdir / "metrics.jsonl")
    plots.plot_training([line["step"] for line in lines], [line["loss"] for line in lines],
                        [line["answer_accuracy"] for line in lines], workdir / "training.png",
                        [(first + 1, segments) for first, segments, *_ in curriculum.stages])
    return evaluation.report(evaluator, state.params, config.train.num_steps, workdir, console)


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
    """What the loop reports: to the metrics files, the progress bar and the checkpoints."""

    def __init__(self, config: Config, workdir: Path, first_step: int, curriculum: Curriculum,
                 examiner: Examiner, evaluator: evaluation.Evaluator,
                 checkpointer: Checkpointer, meta: dict, console: Console):
        self._config, self._evaluator, self._console = config, evaluator, console
        self._checkpointer, self._meta = checkpointer, meta
        self._curriculum, self._examiner = curriculum, examiner
        self._looks = JsonLines(workdir / "curriculum.jsonl", first_step)
        self._writer = MetricsWriter(workdir, first_step, config.train.tensorboard)
        self._history = JsonLines(workdir / "eval" / "history.jsonl", first_step)
        self._clock = Clock(config.model, jax.devices())
        self._bar = Bar("train", config.train.num_steps, first_step, console)
        self._segments = 0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        segments = self._curriculum.stage_at(step - 1)[1]
        if segments != self._segments:  # another shape, so this step was compiled
            self._clock.restart()
        self._segments = segments
        values = values | {"segments": segments} | self._clock.tick(values["tokens"])
        self._writer.write(step, values)
        rate = values["tokens_per_second"]
        self._bar.update(step, f"loss {values['loss']:.4f}  answers "
                               f"{values['answer_accuracy']:.3f}  segments {segments}"
                         + (f"  {rate:,.0f} tokens/s" if rate else ""))

    def stage_ends(self, step: int, state: train_state.TrainState) -> bool:
        if not self._curriculum.looks_at(step):
            return False
        stage = self._curriculum.stage_at(step - 1)
        accuracy = self._examiner.look(state.params, stage)
        ends = self._curriculum.ends_at(step, accuracy)
        self._looks.write({"step": step, "segments": stage[1], "held_out_accuracy": accuracy,
                           "stage_ends": ends})
        self._clock.restart()
        return ends

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
        for part in (self._writer, self._history, self._looks, self._bar):
            part.close()
