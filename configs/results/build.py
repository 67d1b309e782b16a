"""python configs/results/build.py [NAME=WORKDIR ...]

Draws the plots in this folder from its JSON and CSV files, and writes the reports, the tables of
its README.md and those of the repository's README.md. Nothing is trained or evaluated.
NAME=WORKDIR first copies the results of a finished run here, as quickstart=runs/quickstart or
rivals/lm2_seed0=runs/rivals/lm2_seed0.
"""

import csv
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from lm2_jax.commands.report import read_run, report
from lm2_jax.config import source
from lm2_jax.eval.results import cells
from lm2_jax.report import comparison_plots, compilation, perplexity_comparison, plots, tables
from lm2_jax.report.comparison import Comparison, means
from lm2_jax.report.table import Table, spread
from lm2_jax.runtime.files import replacing
from lm2_jax.training import held_out
from lm2_jax.training.writers import read_lines

measurements = source.module(Path(__file__).with_name("measurements.py"))

ROOT = Path(__file__).parents[2]
RESULTS = measurements.RESULTS
PAGES = (Path("README.md"), RESULTS / "README.md")  # whose tables are made here
SINGLE = ("quickstart", "babilong_real")
BESIDE = {"full": "Llama with full attention"}  # drawn in the picture of a run
# Patterns of the folders of runs that are compared, and what they are called.
RIVALS = {"lm2_seed?": "LM2", "rmt_seed?": "RMT", "armt_seed?": "ARMT",
          "llama_seed?": "Llama on one segment", "full_seed?": "Llama with full attention",
          "rag_seed?": "RAG over full attention"}
MEMORIES = {"lm2_seed?": "LM2"}
WINDOWS = {"start_seed0": "from the start (seed 0)",
           "start_longer_seed2": "from the start, 4,500 steps (seed 2)",
           "init_from_seed1": "never for 1,800 steps, then 2,000 steps with it",
           "from_1500": "from step 1,500", "from_1500_three": "from step 1,500, three segments",
           "from_1800_longer": "from step 1,800, 4,500 steps",
           "from_450_three": "from step 450, three segments"}
PLATEAU = {"from the start": "trials/stopped_seed_1", "never": "trials/stopped_seed_1_no_window",
           "from step 1,500": "window/from_1500",
           "from step 1,500, three segments": "window/from_1500_three",
           "from step 450, three segments": "window/from_450_three"}
TRIALS = {"routed": "paper's gates", "routed_window": "paper's gates, window",
          "routed_window_forget_0": "paper's gates, window, forget bias 0",
          "routed_window_forget_-2": "paper's gates, window, forget bias -2",
          "dense": "paper's gates, window, long dense samples",
          "coupled_window": "coupled gates, window",
          "coupled_seeing": "coupled gates that see the slot",
          "coupled_seeing_window": "coupled gates that see the slot, window",
          "cost_0.3": "coupled gates that see the slot, window, write cost 0.3",
          "cost_1": "coupled gates that see the slot, window, write cost 1",
          "sparse": "coupled gates that see the slot, window, write cost 0.3, long sparse samples",
          "passed": "coupled gates that see the slot, window, passed states"}
ABLATIONS = {f"{run}_seed?": run for run in source.runs("ablations")}
RATES = {f"{run}_seed?": run for run in source.runs("rates")}
DRAWN = {"ablations": ("paper", "open", "null", "base"),
         "rates": ("rmt_5e-4", "armt_5e-4", "delta_1e-3", "window_1e-3"),
         "trials": ("paper's gates, window", "coupled gates, window",
                    "coupled gates that see the slot, window",
                    "coupled gates that see the slot, window, write cost 0.3, long sparse samples",
                    "coupled gates that see the slot, window, passed states"),
         "window": ("from step 1,500", "from step 1,500, three segments",
                    "from step 1,800, 4,500 steps", "from step 450, three segments")}  # if not all
LLAMAS = {"llama": "before", "blocks_1": "memory in the first block",
          "blocks_30": "memory in all 30 blocks"}
BLOCKS = {f"{run}_seed?": run for run in source.runs("ablation_blocks")}
COMPILED = ("lm2_1b7_compile", "pretrain_smollm_compile")
COMPARED = {"memory": MEMORIES, "ablations": ABLATIONS, "rates": RATES, "window": WINDOWS,
            "trials": TRIALS, "rivals": RIVALS, "rivals_qa2": RIVALS}
LABELS = COMPARED | {"ablation_blocks": BLOCKS}
TRAINING = ("step", "segments", "loss", "answer_accuracy")
HELD_OUT = ("tokens", "loss")


def main(copies: list[str]) -> None:
    for copy in copies:
        name, _, workdir = copy.partition("=")
        copy_run(Path(workdir).absolute(), ROOT / RESULTS / name)
    os.chdir(ROOT)
    for name in SINGLE:
        draw(RESULTS / name)
    for name in COMPARED:
        compare(RESULTS / name, RESULTS / name)
    draw_held_out(RESULTS / "ablation_blocks")
    for name in COMPILED:
        report_of_compiling = compilation.markdown(compilation.read_all(RESULTS / name))
        (RESULTS / name / "report.md").write_text(report_of_compiling, "utf-8")
    for page in PAGES:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")


def copy_run(workdir: Path, folder: Path) -> None:
    """Copies results.json, provenance.json and gates.json, those of the perplexity, and of
    metrics.jsonl what is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "provenance.json", "gates.json", "gates.png",
                 "perplexity/perplexity.json", "perplexity/documents.json",
                 "perplexity/provenance.json"):
        if (workdir / "eval" / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(workdir / "eval" / name, folder / name)
    lines = read_lines(workdir / "metrics.jsonl")
    if not lines:  # nothing was trained there
        return
    write_csv(folder / "training.csv", TRAINING, ([line[key] for key in TRAINING]
                                                  for line in lines if "loss" in line))
    if curve := perplexity_comparison.curve(lines, held_out.KEY):
        write_csv(folder / "held_out.csv", HELD_OUT, curve)


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence]) -> None:
    with replacing(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow(f"{value:.5g}" if isinstance(value, float) else value for value in row)


def draw_held_out(folder: Path) -> None:
    """Draws held_out.png: the loss of held-out documents over the tokens seen, seeds by name."""
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for name, paths in found_in(folder).items():
        for path in paths:
            with open(path / "held_out.csv", newline="") as file:
                curves.setdefault(name, []).append(
                    [(int(row["tokens"]), float(row["loss"])) for row in csv.DictReader(file)])
    perplexity_comparison.plot_held_out(curves, folder / "held_out.png")


def draw(folder: Path) -> None:
    """Draws accuracy.png of a run, and training.png if its training.csv is there."""
    run = read_run(folder)
    longest = max(stage[1] for stage in run.config.data.curriculum)
    plots.plot_curves(run.rows, folder / "accuracy.png", name=folder.name,
                      trained_tokens=longest * run.config.model.segment_length,
                      beside={label: read_run(folder / name).rows
                              for name, label in BESIDE.items() if (folder / name).exists()})
    plots.plot_heat_map(run.rows, folder / "heat_map.png")
    if not (folder / "training.csv").exists():
        return
    with open(folder / "training.csv", newline="") as file:
        rows = [[float(row[key] or math.nan) for key in TRAINING] for row in csv.DictReader(file)]
    steps, segments, losses, accuracies = zip(*rows, strict=True)
    stages = [(int(steps[i]), int(segments[i])) for i in range(len(steps))
              if i == 0 or segments[i] != segments[i - 1]]
    plots.plot_training(list(map(int, steps)), losses, accuracies, folder / "training.png",
                        stages, folder.name)


def compare(folder: Path, out: Path) -> Comparison:
    """Writes report.md and accuracy.png of the runs in a folder."""
    found = found_in(folder)
    comparison = report([path for paths in found.values() for path in paths], out,
                        names=list(found), console=Console(quiet=True))
    if drawn := DRAWN.get(folder.name):
        groups = tuple(group for group in comparison.groups if group.name in drawn)
        comparison_plots.plot_curves(Comparison(groups), out / "accuracy.png")
    return comparison


def found_in(folder: Path) -> dict[str, list[Path]]:
    """The folders of the runs that are compared there, by what they are called."""
    found = {label: sorted(folder.glob(pattern))
             for pattern, label in LABELS[folder.name].items()}
    return {label: paths for label, paths in found.items() if paths}


def with_tables(text: str) -> str:
    """The text with a new table between each pair of `<!-- begin NAME -->`, `<!-- end -->`."""
    def table(match: re.Match) -> str:
        return f"<!-- begin {match[1]} -->\n{make_table(match[1])}<!-- end -->"

    return re.sub(r"<!-- begin (\S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def make_table(name: str) -> str:
    folder = RESULTS / name
    if name in SINGLE:
        return tables.results(read_run(folder).rows).markdown()
    if name == "quickstart/short":
        return tables.results([row for row in read_run(folder.parent).rows
                               if row.length in ("192", "1k", "4k", "16k")]).markdown()
    if name == "rivals/half_lives":
        return half_lives(folder.parent)
    if name in ("ablations", "rates"):
        return by_trial(folder) + not_run(folder)
    if name in ("trials", "window"):
        return by_trial(folder)
    if name == "trials/stopped":
        return stopped()
    if name == "window/plateau":
        return plateau()
    if name in COMPARED:
        return by_model(folder)
    if name == "ablation_blocks":
        return perplexity_comparison.names_table(
            {label: list(map(read_run, paths)) for label, paths in found_in(folder).items()}
        ).markdown()
    if name == "llama_memory":
        return by_segment(folder)
    if name == "llama_memory/answers":
        return answers(folder.parent)
    return measurements.make_table(name)


def by_trial(folder: Path) -> str:
    """Runs of one seed down, lengths across: exact match and the number of samples."""
    runs = {label: read_run(path) for label, (path,) in found_in(folder).items()}
    carried = {label: {row.length: row for row in run.rows if row.memory == "carried"}
               for label, run in runs.items()}
    lengths = [length for length in ("192", "1k", "4k", "16k")
               if any(length in at for at in carried.values())]
    rows = [[label, *(f"{100 * at[length].exact_match:.1f} ({at[length].n})"
                      for length in lengths)] for label, at in carried.items()]
    constant = [run.rates("constant_answer") for run in runs.values()]
    rows.append(["constant answer", *(spread(means(constant, ["qa1"], [length]))
                                      for length in lengths)])
    return Table(["run", *lengths], [rows]).markdown()


def not_run(folder: Path) -> str:
    """Names the runs of a config that have not been run yet."""
    there = found_in(folder)
    missing = [label for label in LABELS[folder.name].values() if label not in there]
    return f"\nNot run yet: {', '.join(missing)}.\n" if missing else ""


def stopped() -> str:
    """The runs that were stopped: how far they came, and their answers in the last steps."""
    rows = []
    for path in sorted(RESULTS.glob("*/stopped_*/training.csv")):
        with open(path, newline="") as file:
            steps = list(csv.DictReader(file))
        last = [float(row["answer_accuracy"]) for row in steps[-200:]
                if row["segments"] == steps[-1]["segments"] and row["answer_accuracy"]]
        rows.append([f"{path.parts[-3]}/{path.parts[-2]}", f"{int(steps[-1]['step']):,}",
                     steps[-1]["segments"], str(len(last)), f"{100 * fmean(last):.1f}"])
    return Table(["run", "last step", "segments", "last steps", "answers right in them, %"],
                 [rows]).markdown()


def plateau() -> str:
    """The mean loss of seed 1 over ranges of steps, by when attention got its window."""
    ends = range(1500, 2101, 300)
    rows = []
    for label, path in PLATEAU.items():
        with open(RESULTS / path / "training.csv", newline="") as file:
            losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
        parts = [[loss for step, loss in losses if end - 300 < step <= end] for end in ends]
        rows.append([label, *(f"{fmean(part):.3f}" if len(part) == 300 else "-"
                              for part in parts)])
    return Table(["window", *(f"{end - 299:,} to {end:,}" for end in ends)], [rows]).markdown()


def by_model(folder: Path) -> str:
    """Lengths down, models across."""
    groups = {label: list(map(read_run, paths)) for label, paths in found_in(folder).items()}
    runs = list(itertools.chain(*groups.values()))
    rows = []
    for cell in cells(runs[0].rows):
        task, length = cell.any.task, cell.any.length
        constant = [run.rates("constant_answer") for run in runs]
        rows.append([length, f"{cell.any.tokens:,.0f}", *(
            spread(means([run.rates("exact_match") for run in members], [task], [length]))
            for members in groups.values()), spread(means(constant, [task], [length]))])
    return Table(["length", "tokens", *groups, "constant answer"], [rows]).markdown()


def by_segment(folder: Path) -> str:
    """Segments down, models across: nats a token with the memory carried, and with it wiped."""
    runs = {label: read_run(folder / name) for name, label in LLAMAS.items()}
    columns = {}
    for label, run in runs.items():
        for memory, suffix in (("carried", ""), ("reset", ", wiped")):
            found = {row.segments: row for row in run.perplexity if row.memory == memory}
            if found:
                columns[label + suffix] = found
    first = next(iter(columns.values()))
    rows = [[segments, *(f"{at[segments].loss:.4f}" for at in columns.values())]
            for segments in first]
    rows.append(["perplexity", *(f"{at['all'].perplexity:.2f}" for at in columns.values())])
    return Table(["segment", *columns], [rows]).markdown()


def answers(folder: Path) -> str:
    """Lengths down, models across, with the memory carried and wiped."""
    runs = {label: read_run(folder / name) for name, label in LLAMAS.items()}
    runs = {label: run for label, run in runs.items() if run.rows}
    rows = []
    for cell in cells(next(iter(runs.values())).rows):
        at = cell.any.length
        found = [{row.memory: row for row in run.rows if row.length == at}
                 for run in runs.values()]
        rows.append([at, f"{cell.any.tokens:,.0f}", str(cell.any.n), *(
            f"{100 * of_run[memory].exact_match:.1f}" for of_run in found
            for memory in ("carried", "reset")), f"{100 * cell.any.constant_answer:.1f}"])
    return Table(["length", "tokens", "n", *(label + suffix for label in runs
                                             for suffix in ("", ", wiped")), "constant answer"],
                 [rows]).markdown()


def half_lives(folder: Path) -> str:
    """The half-life of the median slot and dimension, blocks across."""
    rows = []
    for path in sorted(folder.glob("lm2_seed?/gates.json")):
        blocks = json.loads(path.read_text("utf-8"))
        rows.append([path.parent.name, *(f"{block['half_life'][1]:,.0f}" for block in blocks)])
    return Table(["run", *(f"block {i}" for i in range(len(rows[0]) - 1))], [rows]).markdown()


if __name__ == "__main__":
    main(sys.argv[1:])
