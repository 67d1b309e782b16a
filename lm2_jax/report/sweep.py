"""The results of a sweep: a table of all runs, the means over seeds, and a plot."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lm2_jax.report import comparison_plots, grid_plots, perplexity_comparison
from lm2_jax.report.comparison import Comparison, Group, Run
from lm2_jax.report.table import Table, percent
from lm2_jax.runtime.files import write_text


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
      status: such as "done"; see `lm2_jax.runtime.queue`.
      steps: trained so far.
      tokens: trained on so far, without padding.
      seconds: of wall time, over all starts of the run.
      error: why it failed; "" if it did not.
      run: its results; None if it is not evaluated.
      held_out: (tokens seen, held-out loss) during the training.
    """

    name: str
    seed: int
    status: str
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    run: Run | None = None
    held_out: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Score:
    """Exact match with the memory carried, at one length, averaged over the tasks of a run.

    Attributes:
      n: number of samples.
      constant_answer: the best that one answer given to all of them can reach.
    """

    exact_match: float
    n: int
    constant_answer: float


def scores(run: Run) -> dict[str, Score]:
    """The scores of a run by length."""
    found = {}
    for length in dict.fromkeys(row.length for row in run.rows if row.memory == "carried"):
        rows = [row for row in run.rows if (row.length, row.memory) == (length, "carried")]
        found[length] = Score(fmean(row.exact_match for row in rows), sum(row.n for row in rows),
                              fmean(row.constant_answer for row in rows))
    return found


def evaluated(entries: Sequence[Entry]) -> bool:
    """Whether a run has results of BABILong."""
    return any(entry.run and entry.run.rows for entry in entries)


def measured(entries: Sequence[Entry]) -> dict[str, list[Run]]:
    """The runs whose perplexity was measured, by name."""
    groups: dict[str, list[Run]] = {}
    for entry in entries:
        if entry.run and entry.run.perplexity:
            groups.setdefault(entry.name, []).append(entry.run)
    return groups


def compared(entries: Sequence[Entry]) -> Comparison:
    """The runs with results of BABILong, those of one name as one group."""
    groups: dict[str, list[Run]] = {}
    for entry in entries:
        if entry.run and entry.run.rows:
            groups.setdefault(entry.name, []).append(entry.run)
    return Comparison(tuple(Group(name, tuple(runs)) for name, runs in groups.items()))


def runs_table(entries: Sequence[Entry]) -> Table:
    """A row for each run."""
    lengths = compared(entries).lengths if evaluated(entries) else []
    header = ["name", "seed", "status", "parameters", "training tokens", "steps", "seconds"]
    for length in lengths:
        header += [f"{length}\n% (n)", f"{length}\nconstant %"]
    rows = []
    for entry in entries:
        found = scores(entry.run) if entry.run else {}
        cells = []
        for length in lengths:
            score = found.get(length)
            cells += [f"{percent(score.exact_match)} ({score.n:,})",
                      percent(score.constant_answer)] if score else ["-", "-"]
        parameters = entry.run.parameters if entry.run else None
        rows.append([entry.name, str(entry.seed), entry.status,
                     f"{parameters:,}" if parameters else "-", f"{entry.tokens:,}",
                     f"{entry.steps:,}", f"{entry.seconds:,.0f}", *cells])
    return Table(header, [rows])


def names_table(entries: Sequence[Entry]) -> Table:
    """A row for each name: the mean and the worst of its seeds at each length."""
    found = _by_name(entries)
    lengths = compared(entries).lengths
    return Table(["name", "seeds", *(f"{length}\nmean / worst" for length in lengths)], [[
        [name, str(max(len(values) for values in by_length.values())), *(
            f"{percent(fmean(by_length[length]))} / {percent(min(by_length[length]))}"
            if length in by_length else "-" for length in lengths)]
        for name, by_length in found.items()]])


def write(folder: Path, config: str, entries: Sequence[Entry]) -> list[Path]:
    """Writes sweep.json, sweep.md and, if a run is evaluated, sweep.png or, for a grid, grid.png.

    Args:
      config: that was given to `lm2 sweep`.

    Returns:
      The paths of the files.
    """
    paths = [folder / "sweep.json", folder / "sweep.md"]
    if evaluated(entries):
        paths += _plots(folder, entries)
    curves: dict[str, list] = {}
    for entry in entries:
        curves.setdefault(entry.name, []).append(entry.held_out)
    if held_out := perplexity_comparison.plot_held_out(curves, folder / "held_out.png"):
        paths.append(held_out)
    write_text(paths[0], json.dumps(_as_json(config, entries), indent=2) + "\n")
    write_text(paths[1], _page(config, entries, {path.name for path in paths}))
    return paths


def _plots(folder: Path, entries: Sequence[Entry]) -> list[Path]:
    if grid := grid_plots.of_names([entry.name for entry in entries]):
        means = {name: {length: fmean(values) for length, values in by_length.items()}
                 for name, by_length in _by_name(entries).items()}
        return [grid_plots.plot(grid, means, compared(entries).lengths, folder / "grid.png")]
    try:
        return [comparison_plots.plot_curves(compared(entries), folder / "sweep.png")]
    except comparison_plots.NotDrawn:
        return []


def read_errors(folder: Path) -> dict[tuple[str, int], str]:
    """Why runs failed, by name and seed, as sweep.json says; {} if there is none."""
    try:
        runs = json.loads((folder / "sweep.json").read_text("utf-8"))["runs"]
        return {(run["name"], run["seed"]): run["error"] for run in runs if run["error"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _page(config: str, entries: Sequence[Entry], drawn: set[str]) -> str:
    done = sum(entry.status == "done" for entry in entries)
    parts = [f"# Sweep of {config}: {done} of {len(entries)} runs done"]
    if evaluated(entries) or not measured(entries):
        parts.append(
            "Exact match with the memory carried, in % at each length, and in brackets the number "
            "of samples. Beside it is the best constant answer to the same samples.")
    parts.append(runs_table(entries).markdown())
    if errors := [f"- {entry.name}, seed {entry.seed}: {entry.error}"
                  for entry in entries if entry.error]:
        parts += ["## Failed", "\n".join(errors)]
    if evaluated(entries):
        parts += ["## Mean and worst seed", names_table(entries).markdown()]
    if "sweep.png" in drawn:
        parts.append("![Exact match over context length](sweep.png)")
    if "grid.png" in drawn:
        parts.append("![Exact match by the settings of the grid](grid.png)")
    if runs := measured(entries):
        parts += ["## Held-out perplexity", perplexity_comparison.names_table(runs).markdown()]
    if "held_out.png" in drawn:
        parts.append("![Held-out loss over training tokens](held_out.png)")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _as_json(config: str, entries: Sequence[Entry]) -> dict:
    def run(entry: Entry) -> dict:
        values = {field.name: getattr(entry, field.name)
                  for field in dataclasses.fields(entry) if field.name != "run"}
        if not entry.run:
            return values
        return values | {"parameters": entry.run.parameters, "results": {
            length: dataclasses.asdict(score) for length, score in scores(entry.run).items()}} | (
            {"perplexity": list(map(dataclasses.asdict, entry.run.perplexity))}
            if entry.run.perplexity else {})

    return {"config": config, "runs": [run(entry) for entry in entries], "names": {
        name: {length: {"mean": fmean(values), "worst": min(values), "seeds": len(values)}
               for length, values in by_length.items()}
        for name, by_length in _by_name(entries).items()}}


def _by_name(entries: Sequence[Entry]) -> Mapping[str, dict[str, list[float]]]:
    """The exact match of each seed, by name and length."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in entries:
        for length, score in scores(entry.run).items() if entry.run else ():
            found.setdefault(entry.name, {}).setdefault(length, []).append(score.exact_match)
    return found
