"""`lm2 eval`, and the evaluations of a training run."""

import argparse
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.commands import arguments, harness
from lm2_jax.config import Config, files, with_vocab_size
from lm2_jax.data import tokenizer
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.eval import babilong, perplexity_evaluator
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.eval.evaluator import DEFAULT, Evaluator, open_journal, results_folder
from lm2_jax.eval.journal import Journal
from lm2_jax.eval.perplexity import Row as PerplexityRow
from lm2_jax.eval.perplexity_evaluator import PerplexityEvaluator
from lm2_jax.eval.results import Row
from lm2_jax.report import perplexity, plots, provenance, tables
from lm2_jax.runtime import compilation_cache, locks, meshes, paths, processes
from lm2_jax.runtime.console import Console, print_error
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.runtime.progress import Bar
from lm2_jax.types import Params


def evaluate(config: Config, workdir: str | Path, step: int | None = None,
             console: Console | None = None, out: str | Path | None = None
             ) -> list[Row | PerplexityRow]:
    """Evaluates a checkpoint of a workdir under `config.eval`; returns the results.

    Args:
      step: of the checkpoint; None = the newest.
      out: folder of the results; None = `workdir/eval`. Nothing else is written.

    Returns:
      The rows of BABILong (`lm2_jax.eval.results.Row`), if `eval.lengths` or `eval.samples` name
      some, then those of perplexity (`lm2_jax.eval.perplexity.Row`), if there are corpora.

    Raises:
      Preempted: after SIGTERM; the same call resumes the evaluation.
      UserError: nothing to evaluate, a workdir that is not of this model, or a folder that is
        read-only.
    """
    console = console or Console(quiet=not processes.is_primary())
    if (empty := babilong.empty_key(config.eval)) and perplexity_evaluator.empty_key(config):
        raise UserError(f"{empty} is empty, so there is nothing to evaluate")
    locks.require_writable(_folder(workdir, out), "--out")
    config, tokens, mesh, params, step = _open(config, workdir, step)
    evaluators: list[Evaluator] = [] if empty else [BabilongEvaluator(config, tokens, mesh)]
    evaluators.append(PerplexityEvaluator(config, tokens, mesh))
    processes.require_same(files.flat(config) | {
        f"the {part}": value for evaluator in evaluators
        for part, value in evaluator.identity(params, step).items()})
    console.print(f"evaluating {workdir} at step {step}")
    with Preemption() as preemption:
        return report(evaluators, params, step, workdir, console, preemption.check, out)


def open_workdir(config: Config, workdir: str | Path, step: int | None = None
                 ) -> tuple[BabilongEvaluator, Params, int]:
    """The BABILong evaluator of a workdir's model under `config.eval`, the variables of a
    checkpoint and its step.

    Raises:
      UserError: there is nothing to evaluate, or the workdir is not of this model.
    """
    if not config.eval.lengths and not babilong.asks_whole_file(config.eval):
        raise UserError("eval.lengths is empty, so there are no samples; give "
                        "--config.eval.lengths")
    config, tokens, mesh, params, step = _open(config, workdir, step)
    return BabilongEvaluator(config, tokens, mesh), params, step


def _open(config: Config, workdir: str | Path, step: int | None
          ) -> tuple[Config, Tokenizer, Mesh, Params, int]:
    """The config with the vocabulary size of a workdir, its tokenizer, the mesh, the variables of a
    checkpoint and its step."""
    stored = workdirs.stored_config(workdir)
    config = with_vocab_size(config, stored.model.vocab_size)
    workdirs.refuse([line for line in files.differences(stored, config,
                                                              ignore=workdirs.MAY_CHANGE)
                     if line.startswith("model.")], workdir)
    mesh = meshes.for_evaluation(config)
    _, params, step = workdirs.load_checkpoint(workdir, step, mesh)
    return config, _tokenizer(workdir, step), mesh, params, step


def _tokenizer(workdir: str | Path, step: int) -> Tokenizer:
    """The tokenizer that the checkpoint was trained with."""
    path = paths.of(workdir) / "tokenizer.json"
    tokens, meta = tokenizer.load(path), Checkpointer(workdir).meta(step)
    if meta.get("tokenizer_digest", tokens.digest) != tokens.digest:
        raise UserError(f"{path} is not the tokenizer that step {step} was trained with; restore "
                        "that file")
    return tokens


def report(evaluators: Sequence[Evaluator], params: Params, step: int, workdir: str | Path,
           console: Console, between: Callable[[], None] | None = None,
           out: str | Path | None = None) -> list[Any]:
    """Runs evaluators, writes the results, prints the tables and the paths of the plots.

    Args:
      between: called after every batch; if it raises, the answers so far are kept, also those of
        the evaluators that are done.
      out: the folder; None = `workdir/eval`.

    Returns:
      The results; none, with a line that says why, if there is nothing to evaluate.
    """
    wanted = [evaluator for evaluator in evaluators if not evaluator.empty_key]
    notes = [line for evaluator in evaluators for line in evaluator.notes]
    if notes or not wanted:
        console.print("\n".join(notes) or f"{evaluators[0].empty_key} is empty: no evaluation")
    with contextlib.ExitStack() as stack:
        opened = []
        for evaluator in wanted:
            folder = results_folder(_folder(workdir, out), evaluator.name)
            stack.enter_context(locks.locked(folder, "an evaluation", "--out"))
            journal = open_journal(evaluator, folder, params, step)
            opened.append((evaluator, folder, stack.enter_context(journal)))
        return [row for evaluator, folder, journal in opened
                for row in _report(evaluator, params, step, folder, journal, console, between)]


def _folder(workdir: str | Path, out: str | Path | None) -> Path:
    return paths.of(workdir) / "eval" if out is None else paths.of(out)


def _report(evaluator: Evaluator, params: Params, step: int, folder: Path, journal: Journal,
            console: Console, between: Callable[[], None] | None) -> list[Any]:
    total, read = evaluator.tokens_to_read(journal)
    title = "eval" if evaluator.name == DEFAULT else evaluator.name
    bar = Bar(title, total, read, console, "tokens")

    def progress(tokens: int, status: str) -> None:
        nonlocal read
        read += tokens
        bar.update(read, status)

    results = []
    with contextlib.closing(bar):
        for result in evaluator.run(params, journal=journal, progress=progress, between=between):
            results.append(result)
            if not processes.is_primary():
                continue
            if len(results) == 1:
                # Results of an earlier evaluation are kept until now, and go before the first new
                # row, so that none ever stands beside the provenance of another.
                evaluator.remove(folder)
                provenance.write(folder, evaluator.config, step,
                                 sum(leaf.size for leaf in jax.tree.leaves(params)))
            evaluator.write(folder, results)
    rows = [row for row, _ in results]
    if processes.is_primary():
        _SHOW[evaluator.name](rows, evaluator.config, folder, console)
    return rows


def _show_babilong(rows: list[Row], config: Config, folder: Path, console: Console) -> None:
    trained = max(stage[1] for stage in config.data.curriculum) * config.model.segment_length
    has_memory = config.model.memory.num_layers > 0
    shown = rows if has_memory else tables.without_wiped(rows)
    written = [folder / "results.json",
               plots.plot_curves(shown, folder / "accuracy.png", name=folder.resolve().parent.name,
                                 trained_tokens=trained, has_memory=has_memory),
               plots.plot_heat_map(shown, folder / "heat_map.png", has_memory)]
    console.print(tables.results(shown).terminal("Exact match vs context length"))
    for path in filter(None, written):
        console.print(str(path))


def _show_perplexity(rows: list[PerplexityRow], config: Config, folder: Path, console: Console
                     ) -> None:
    T = config.model.segment_length
    for table, title in perplexity.tables(rows, T):
        shown = table.fitting(console.width, *perplexity.LESS_IMPORTANT)
        console.print(shown.terminal(title))
    console.print(str(folder / "perplexity.json"))
    console.print(str(perplexity.plot(rows, folder / "perplexity.png", T)))


_SHOW: dict[str, Callable] = {
    BabilongEvaluator.name: _show_babilong, PerplexityEvaluator.name: _show_perplexity}
"""Draw and print rows, by evaluator."""


EPILOG = """BABILong is evaluated at eval.lengths, with results in WORKDIR/eval. Perplexity is
measured on the held-out documents of eval.corpora (folders of lm2 data tokenize; by default those
that the run was trained on), by segment of a document, with the memory carried and reset at each
segment; the results are in WORKDIR/eval/perplexity. Intervals are over documents. With --harness
the results are in WORKDIR/eval/harness.
""" + arguments.CONFIG_HELP + "\n" + arguments.PROCESSES_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser, required=False)
    arguments.add_checkpoint(parser)
    parser.add_argument("--out", metavar="FOLDER", help="folder of the results (WORKDIR/eval)")
    harness.add_arguments(parser)
    arguments.add_processes(parser)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    if args.harness is not None:
        with arguments.joined_processes(args, "lm2 eval"):
            harness.run(args, overrides)
        return 0
    harness.require_harness(args)
    if not args.config:
        raise UserError("the following arguments are required: --config (or --harness)")
    config = arguments.load_config(args, overrides)
    with arguments.joined_processes(args, "lm2 eval"):
        try:
            evaluate(config, args.workdir, args.step, out=args.out)
        except Preempted:
            print_error("lm2 eval: SIGTERM: the answers so far are kept in "
                        f"{args.out or args.workdir}; the same command resumes there")
            return 128 + signal.SIGTERM
    return 0
