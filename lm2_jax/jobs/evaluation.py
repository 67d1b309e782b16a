"""`lm2 eval`, and the evaluations of a training run."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from lm2_jax import config_file, distributed
from lm2_jax.config import Config, with_vocab_size
from lm2_jax.data import asking, corpus
from lm2_jax.data.samples import Prompt
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.eval import babilong
from lm2_jax.eval.journal import UNFINISHED, Journal
from lm2_jax.eval.results import Row, remove_results, write_predictions, write_results
from lm2_jax.eval.stream import Streamer
from lm2_jax.jobs import access, meshes
from lm2_jax.jobs import workdir as workdirs
from lm2_jax.model.lm import LanguageModel
from lm2_jax.preemption import Preemption
from lm2_jax.report import plots, provenance, tables
from lm2_jax.report.progress import Bar
from lm2_jax.types import Params


class Evaluator:
    """Held-out prompts, drawn once, and what answers them."""

    def __init__(self, config: Config, tokens: Tokenizer, mesh: Mesh):
        self.config, self.tokens, self.mesh = config, tokens, mesh
        self._corpus = corpus.held_out(config, tokens)
        self.asking = asking.make(config.eval, self._corpus.encoder)
        self._prompts: dict[int, dict[tuple[str, str], list[Prompt]]] = {}
        # What cannot be read or drawn is said before the training; each index may be one.
        self.prompts(config.eval.num_samples if config.eval.indices else 1)

    def prompts(self, num_samples: int) -> dict[tuple[str, str], list[Prompt]]:
        """The prompts of each task and length: so many, drawn once, or the whole sample file."""
        count = 0 if babilong.asks_whole_file(self.config.eval) else num_samples
        if count not in self._prompts:
            self._prompts[count] = babilong.cells(self.config, self._corpus, self.asking,
                                                  num_samples)
        return self._prompts[count]

    def drawn_beside_indices(self) -> list[str]:
        """The tasks that `eval.indices` does not name, whose samples are drawn as without it."""
        return [source.task for source in self._corpus.sources
                if self.config.eval.indices and not source.asked]

    def run(self, params: Params, modes: Sequence[str], num_samples: int, **options
            ) -> Iterator[tuple[Row, list[babilong.Prediction]]]:
        """Rows and predictions, one task, length and mode after another; options as those of
        `babilong.evaluate`."""
        streamer = Streamer(LanguageModel(self.config.model), params,
                            pad_id=self.tokens.pad_id, end_id=self.tokens.end_id)
        with jax.set_mesh(self.mesh):
            yield from babilong.evaluate(streamer, self.prompts(num_samples), self.config.eval,
                                         self.tokens.decode, modes, **options)

    def journal(self, folder: Path, step: int) -> Journal:
        """Of an evaluation of this step with the configured number of samples."""
        config = config_file.to_dict(self.config)
        identity = [step, config["model"], config["eval"],
                    babilong.digest(self.prompts(self.config.eval.num_samples))]
        # All processes take over the same answers; one of them adds to the file.
        return distributed.leader_first(lambda: Journal(
            folder / UNFINISHED, json.dumps(identity), adds=distributed.leads()))


def evaluate(config: Config, workdir: str | Path, step: int | None = None,
             console: Console | None = None) -> list[Row]:
    """Evaluates a checkpoint of a workdir under `config.eval`; returns the results.

    Raises:
      Left: after SIGTERM; the same call goes on from there.
    """
    console = console or Console(quiet=not distributed.leads())
    evaluator, params, step = open_workdir(config, workdir, step)
    distributed.require_alike({
        "the commit": provenance.commit(), "the step": step,
        "the samples": babilong.digest(evaluator.prompts(evaluator.config.eval.num_samples)),
    } | config_file.flat(evaluator.config))
    console.print(f"evaluating {workdir} at step {step}", highlight=False)
    with Preemption() as preemption:
        return report(evaluator, params, step, workdir, console, preemption.check)


def open_workdir(config: Config, workdir: str | Path, step: int | None = None
                 ) -> tuple[Evaluator, Params, int]:
    """An evaluator of a workdir's model under `config.eval`, its variables and their step."""
    stored = workdirs.stored_config(workdir)
    config = with_vocab_size(config, stored.model.vocab_size)
    workdirs.refuse([line for line in config_file.differences(stored, config,
                                                              ignore=workdirs.MAY_CHANGE)
                     if line.startswith("model.")], workdir)
    mesh = meshes.for_evaluation(config)
    _, params, step = workdirs.load_checkpoint(workdir, step, mesh)
    return Evaluator(config, corpus.load_tokenizer(stored, workdir), mesh), params, step


def report(evaluator: Evaluator, params: Params, step: int, workdir: str | Path,
           console: Console, between: Callable[[], None] | None = None) -> list[Row]:
    """Evaluates, writes `workdir/eval`, prints the table and where the plots are.

    Args:
      between: called after every batch; where it raises, what was answered is kept.
    """
    with access.locked(Path(workdir) / "eval", "an evaluation"):
        return _report(evaluator, params, step, workdir, console, between)


def _report(evaluator: Evaluator, params: Params, step: int, workdir: str | Path,
            console: Console, between: Callable[[], None] | None) -> list[Row]:
    folder, config = Path(workdir) / "eval", evaluator.config
    if drawn := evaluator.drawn_beside_indices():
        console.print(f"{config.eval.indices} has no indices of {', '.join(drawn)}: their samples "
                      "are drawn", highlight=False, markup=False, soft_wrap=True)
    journal = evaluator.journal(folder, step)
    if distributed.leads():
        if not journal.begun:
            remove_results(folder)
        # Before the first row, so that none ever stands beside what made another's.
        provenance.write(folder, config, step, sum(leaf.size for leaf in jax.tree.leaves(params)))
    rows: list[Row] = []
    total, read = babilong.tokens_to_read(evaluator.prompts(config.eval.num_samples),
                                          config.eval.memory, journal)
    bar = Bar("eval", total, read, console, "tokens")

    def progress(task: str, length: str, memory: str, *, tokens: int, done: int, hits: int):
        nonlocal read
        read += tokens
        right = f": {hits / done:.3f} of {done}" if done else ""
        bar.update(read, f"{task} {length} {memory}{right}")

    with contextlib.closing(bar), journal:
        for row, predictions in evaluator.run(params, config.eval.memory, config.eval.num_samples,
                                              progress=progress, journal=journal,
                                              between=between):
            rows.append(row)
            if distributed.leads():
                write_predictions(folder, row.task, row.length, row.memory, predictions,
                                  evaluator.asking.prompt(row.task), config.eval.max_new_tokens)
                write_results(folder, rows)
    if not distributed.leads():
        return rows
    trained = max(stage[1] for stage in config.data.curriculum) * config.model.segment_length
    plots.plot_curves(rows, folder / "accuracy.png", trained_tokens=trained)
    plots.plot_heat_map(rows, folder / "heat_map.png")
    console.print(tables.results_table(rows))
    for name in ("results.json", "accuracy.png", "heat_map.png"):
        console.print(str(folder / name), highlight=False, soft_wrap=True)
    return rows
