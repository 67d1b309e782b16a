"""`lm2 report`."""

import collections
import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.config import files
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.eval.journal import UNFINISHED
from lm2_jax.eval.results import read_results
from lm2_jax.report import comparison_plots, comparison_tables
from lm2_jax.report.comparison import METRICS, Comparison, Group, Run
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import replacing

# Runs that differ in these alone may be seeds of one group: they change how fast a run is, or how
# often it saves, but no result.
CHANGE_NO_RESULT = (
    *(key for key in workdirs.MAY_CHANGE if key not in ("eval.", "train.num_steps")),
    "eval.batch_size", "eval.during_training")
TRAINED_TOKENIZERS = ("word", "bpe")  # their vocabulary follows from the seed's stories


def report(folders: Sequence[str | Path], out: str | Path = "report", metric: str = METRICS[0],
           names: Sequence[str] = (), paper: bool = False, console: Console | None = None
           ) -> Comparison:
    """Compares evaluated workdirs: prints the table, writes `out`/report.md and its PNGs.

    A folder that holds results.json and provenance.json themselves, as configs/results/ does, is
    read like the workdir that they are of.

    Args:
      metric: "exact_match", or "accuracy" for the benchmark's own.
      names: of the groups of seeds, in order of their first workdirs; () = the workdirs' names.
      paper: put the LM2 paper's own figures beside.

    Raises:
      FileNotFoundError: a workdir without a run or an evaluation; names the command to run.
      ValueError: results that cannot stand side by side.
    """
    console, out = console or Console(), Path(out)
    if metric not in METRICS:
        raise UserError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
    comparison = Comparison(tuple(_groups([read_run(folder) for folder in folders], names)), metric)
    console.print(comparison_tables.terminal_table(comparison, paper, console.width))
    for note in comparison_tables.notes(comparison, paper):
        console.print(note, style="dim", highlight=False, markup=False)
    drawn = [
        _draw("accuracy.png", out, console,
              lambda path: comparison_plots.plot_curves(comparison, path, paper)),
        _draw("capabilities.png", out, console,
              lambda path: comparison_plots.plot_radar(comparison, path))]
    figures = [name for name in drawn if name]
    with replacing(out / "report.md") as partial:
        partial.write_text(comparison_tables.page(comparison, paper, figures), "utf-8")
    for name in ("report.md", *figures):
        console.print(str(out / name), highlight=False, markup=False, soft_wrap=True)
    return comparison


def read_run(folder: str | Path) -> Run:
    """The config and the results of an evaluated workdir, or of a copy of its `eval` folder."""
    command = f"lm2 eval --config=... --workdir={shlex.quote(str(folder))}"
    alone = (Path(folder) / "results.json").exists()
    results = Path(folder) if alone else Path(folder) / "eval"
    config = None if alone else workdirs.stored_config(folder)
    if not (results / "results.json").exists():
        raise UserFileNotFoundError(f"{folder} is not evaluated (no eval/results.json); run: "
                                f"{command}")
    rows = tuple(read_results(results))
    if not any(row.memory == "carried" for row in rows):
        raise UserError(f"{folder} has no results with the memory carried; run: {command} "
                         "--config.eval.memory=carried,reset")
    path, unfinished = results / "provenance.json", (results / UNFINISHED).exists()
    if not path.exists() and config:
        return Run(str(folder), config, rows, unfinished=unfinished)
    if not path.exists():
        raise UserFileNotFoundError(f"{folder} has results.json and no provenance.json; copy that "
                                "beside it")
    try:
        facts = json.loads(path.read_text("utf-8"))
        evaluated = files.from_dict(facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say how the results were made ({error}); run: "
                         f"{command}") from error
    config = dataclasses.replace(config or evaluated, eval=evaluated.eval)
    return Run(str(folder), config, rows, facts.get("step"), facts.get("parameters"), unfinished)


def _groups(runs: Sequence[Run], names: Sequence[str]) -> list[Group]:
    """The runs that differ in nothing but the seed, together; in order of their first."""
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
                         f"{len(found)} models; give one name, of its own, for each: {together}")
    return [Group(name, tuple(members))
            for name, members in zip(names, found.values(), strict=True)]


def _identity(run: Run) -> str:
    """Equal for runs that differ in nothing but the seed."""
    ignore = ("seed", *CHANGE_NO_RESULT)
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
                             f"seed ({run.config.seed}), which would count as two; give one")


def _refuse_unequal(members: Sequence[Run]) -> None:
    cells = [{(row.task, row.length, row.memory) for row in run.rows} for run in members]
    for run, own in zip(members, cells, strict=True):
        if lacking := set.union(*cells) - own:
            raise UserError(f"{run.workdir} lacks {' '.join(min(lacking))}, which another seed of "
                             "it has; run: lm2 eval --config=... "
                             f"--workdir={shlex.quote(run.workdir)}")


def _names(folders: Sequence[str]) -> list[str]:
    """The last parts of the paths, or the whole paths where these are not enough."""
    last = [Path(folder).resolve().name for folder in folders]
    counts = collections.Counter(last)
    return [name if counts[name] == 1 else folder
            for name, folder in zip(last, folders, strict=True)]


def _draw(name: str, out: Path, console: Console, plot: Callable[[Path], Path]) -> str | None:
    """The name of the figure drawn; None, with a line that says why, if there was no figure."""
    try:
        plot(out / name)
    except comparison_plots.NotDrawn as error:
        (out / name).unlink(missing_ok=True)  # one of other runs would be taken for theirs
        console.print(f"{name} is not drawn: {error}", highlight=False, markup=False,
                      soft_wrap=True)
        return None
    return name
