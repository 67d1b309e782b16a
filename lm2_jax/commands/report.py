"""`lm2 report`."""

import argparse
import collections
import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.eval import perplexity
from lm2_jax.eval.journal import UNFINISHED
from lm2_jax.eval.perplexity_evaluator import PerplexityEvaluator
from lm2_jax.eval.results import read_results
from lm2_jax.report import comparison_plots, comparison_tables, perplexity_comparison
from lm2_jax.report.comparison import METRICS, Comparison, Group, Run
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import write_text
from lm2_jax.training import held_out
from lm2_jax.training.writers import read_lines

# Runs that differ only in these keys and the seed are one group: the keys change how fast a run is,
# or how often it saves, but no result.
CHANGE_NO_RESULT = (
    *(key for key in workdirs.MAY_CHANGE if key not in ("eval.", "train.num_steps")),
    "eval.batch_size", "eval.during_training")
TRAINED_TOKENIZERS = ("word", "bpe")  # their vocabulary follows from the seed's stories


def report(folders: Sequence[str | Path], out: str | Path = "report", metric: str = METRICS[0],
           names: Sequence[str] = (), paper: bool = False, console: Console | None = None
           ) -> Comparison:
    """Compares evaluated workdirs: prints the table, writes `out`/report.md and its PNGs.

    A folder that itself holds results.json and provenance.json, as those in configs/results/ do,
    is read like the workdir that they were copied from. Only `out` is written to.

    Args:
      metric: "exact_match", or "accuracy" for the benchmark's own metric.
      names: a name for each group of seeds, in order of their first workdirs; () takes the names
        of the workdirs.
      paper: also show the results that the LM2 paper reports.

    Returns:
      The runs with results of BABILong; those with perplexity alone are on the page only.

    Raises:
      UserFileNotFoundError: a workdir has no run or no evaluation; names the command to run.
      UserError: the results cannot be compared.
    """
    console, out = console or Console(), paths.of(out)
    if metric not in METRICS:
        raise UserError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
    groups = _groups([read_run(folder) for folder in folders], names)
    found = _perplexity(groups, out, console)
    comparison = Comparison(tuple(group for group in groups if group.runs[0].rows), metric)
    if not comparison.groups:
        write_text(out / "report.md", f"# Comparison\n\n{found}")
        console.print(str(out / "report.md"))
        return comparison
    console.print(comparison_tables.terminal(comparison, paper, console.width))
    for note in comparison_tables.notes(comparison, paper):
        console.print(note, style="dim")
    drawn = [
        _draw("accuracy.png", out, console,
              lambda path: comparison_plots.plot_curves(comparison, path, paper)),
        _draw("capabilities.png", out, console,
              lambda path: comparison_plots.plot_radar(comparison, path))]
    figures = [name for name in drawn if name]
    page = comparison_tables.page(comparison, paper, figures)
    write_text(out / "report.md", f"{page}\n{found}" if found else page)
    for name in ("report.md", *figures):
        console.print(str(out / name))
    return comparison


def _perplexity(groups: Sequence[Group], out: Path, console: Console) -> str:
    """Prints the perplexity of the groups and draws their held-out loss over training tokens.

    Returns:
      The section of the page; "" if no perplexity was measured.
    """
    measured = {group.name: group.runs for group in groups if group.runs[0].perplexity}
    curves = {group.name: [perplexity_comparison.curve(
        read_lines(paths.of(run.workdir) / "metrics.jsonl"), held_out.KEY) for run in group.runs]
        for group in groups}
    drawn = perplexity_comparison.plot_held_out(curves, out / "held_out.png")
    if drawn:
        console.print(str(drawn))
    if not measured:
        return ""
    table = perplexity_comparison.names_table(measured)
    shown = table.fitting(console.width, *perplexity_comparison.LESS_IMPORTANT)
    console.print(shown.terminal("Held-out perplexity"))
    return f"## Held-out perplexity\n\n{table.markdown()}" + (
        "\n![Held-out loss over training tokens](held_out.png)\n" if drawn else "")


def read_run(folder: str | Path) -> Run:
    """Reads the config and results of an evaluated workdir, or of a copy of its `eval` folder."""
    command = f"lm2 eval --config=... --workdir={shlex.quote(str(folder))}"
    measured = paths.of(PerplexityEvaluator.name)  # beside the results of BABILong
    alone = any((paths.of(folder) / name).exists()
                for name in ("results.json", measured / perplexity.FILE))
    results = paths.of(folder) if alone else paths.of(folder) / "eval"
    config = None if alone else workdirs.stored_config(folder)
    has_perplexity = (results / measured / perplexity.FILE).exists()
    has_tasks = (results / "results.json").exists()
    if not has_tasks and not has_perplexity:
        raise UserFileNotFoundError(f"{folder} is not evaluated (no eval/results.json); run: "
                                f"{command}")
    perplexities = tuple(perplexity.read_rows(results / measured)) if has_perplexity else ()
    documents = tuple(perplexity.read_sums(results / measured)) if has_perplexity else ()
    rows = tuple(read_results(results)) if has_tasks else ()
    if has_tasks and not any(row.memory == "carried" for row in rows):
        raise UserError(f"{folder} has no results with the memory carried; run: {command} "
                         "--config.eval.memory=carried,reset")
    path = (results if rows else results / measured) / "provenance.json"
    unfinished = any((at / UNFINISHED).exists() for at in (results, results / measured))
    if not path.exists() and config:
        return Run(str(folder), config, rows, unfinished=unfinished, perplexity=perplexities,
                   documents=documents)
    if not path.exists():
        raise UserFileNotFoundError(f"{folder} has results.json and no provenance.json; copy that "
                                "beside it")
    try:
        facts = json.loads(path.read_text("utf-8"))
        evaluated = files.from_stored(facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the provenance of an evaluation ({error}); run: "
                         f"{command}") from error
    config = dataclasses.replace(config or evaluated, eval=evaluated.eval)
    return Run(str(folder), config, rows, facts.get("step"), facts.get("parameters"), unfinished,
               perplexities, documents)


def _groups(runs: Sequence[Run], names: Sequence[str]) -> list[Group]:
    """Groups the runs that differ in nothing but the seed, in order of their first runs."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_identity(run), []).append(run)
    for members in found.values():
        _refuse_repeated(members)
        _refuse_unequal(members)
    names = names or _names([members[0].workdir for members in found.values()])
    if len(names) != len(found) or len(set(names)) != len(names):
        together = "; ".join(" + ".join(run.workdir for run in members)
                             for members in found.values())
        raise UserError(f"--names has {len(set(names))} names ({', '.join(names)}) for "
                         f"{len(found)} models; give each model a name of its own: {together}")
    return [Group(name, tuple(members))
            for name, members in zip(names, found.values(), strict=True)]


def _identity(run: Run) -> str:
    """A text that is equal for runs that differ in nothing but the seed."""
    unused = (f"model.memory.{key}" for key in run.config.model.memory.unused)
    ignore = ("seed", *CHANGE_NO_RESULT, *unused)
    if run.config.data.tokenizer in TRAINED_TOKENIZERS:
        ignore += ("model.vocab_size",)
    return json.dumps([run.step, {key: value for key, value in files.flat(run.config).items()
                                  if not key.startswith(ignore)}])


def _refuse_repeated(members: Sequence[Run]) -> None:
    seeds: dict[int, Run] = {}
    for run in members:
        first = seeds.setdefault(run.config.seed, run)
        if first is not run:
            raise UserError(f"{first.workdir} and {run.workdir} are runs of the same config and "
                             f"seed ({run.config.seed}), which would count twice; give only one")


def _refuse_unequal(members: Sequence[Run]) -> None:
    cells = [{(row.task, row.length, row.memory) for row in run.rows} for run in members]
    for run, own in zip(members, cells, strict=True):
        if lacking := set.union(*cells) - own:
            raise UserError(f"{run.workdir} lacks {' '.join(min(lacking))}, which another seed of "
                             "the same model has; run: lm2 eval --config=... "
                             f"--workdir={shlex.quote(run.workdir)}")


def _names(folders: Sequence[str]) -> list[str]:
    """The last part of each path; the whole path where several paths end in the same part."""
    last = [paths.of(folder).resolve().name for folder in folders]
    counts = collections.Counter(last)
    return [name if counts[name] == 1 else folder
            for name, folder in zip(last, folders, strict=True)]


def _draw(name: str, out: Path, console: Console, plot: Callable[[Path], Path]) -> str | None:
    """Draws a figure and returns its name; if it cannot be drawn, says why and returns None."""
    try:
        plot(out / name)
    except comparison_plots.NotDrawn as error:
        (out / name).unlink(missing_ok=True)  # do not leave one of other runs
        console.print(f"{name} is not drawn: {error}")
        return None
    return name


EPILOG = """Writes report.md (a table of tasks by lengths, the runs, what differs between their
configs, held-out perplexity), accuracy.png, capabilities.png and held_out.png. Runs that differ in
the seed alone are one model: their mean stands with the lowest and the highest. The best constant
answer stands beside every accuracy.
Example: lm2 report runs/lm2_seed0 runs/lm2_seed1 runs/llama --names=lm2,llama --out=runs/report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR",
                        help="folders of evaluated runs, or copies of their eval folders")
    parser.add_argument("--out", default="report", metavar="FOLDER",
                        help="where the report is written (%(default)s)")
    parser.add_argument("--metric", default="exact_match", choices=METRICS,
                        help="accuracy is the benchmark's own metric (%(default)s)")
    parser.add_argument("--names", default="", metavar="A,B",
                        help="a name for each model, in order of its first workdir")
    parser.add_argument("--paper", action="store_true",
                        help="adds the LM2 paper's own figures, marked as not reproduced")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    report(args.workdirs, args.out, args.metric, arguments.names(args.names), args.paper)
    return 0
