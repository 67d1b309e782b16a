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
from pathlib import Path
from statistics import median

from rich.console import Console

from lm2_jax.bench import attention, bptt, compiling, decode, device, memory, roofline, step
from lm2_jax.bench.measures import Result
from lm2_jax.commands.report import read_run, report
from lm2_jax.config import source
from lm2_jax.eval.results import cells
from lm2_jax.report import comparison_plots, compilation, context, plots, tables
from lm2_jax.report.comparison import Comparison, means
from lm2_jax.report.table import Table, spread
from lm2_jax.runtime.files import replacing

ROOT = Path(__file__).parents[2]
RESULTS = Path("configs/results")  # from ROOT, so that reports name paths of the repository
PAGES = (Path("README.md"), RESULTS / "README.md")  # whose tables are made here
SINGLE = ("quickstart", "babilong_real")
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
TRIALS = {"routed": "paper's gates", "routed_window": "paper's gates, window",
          "routed_window_forget_0": "paper's gates, window, forget bias 0",
          "routed_window_forget_-2": "paper's gates, window, forget bias -2",
          "dense": "paper's gates, window, long dense samples",
          "coupled_window": "coupled gates, window",
          "coupled_seeing": "coupled gates that see the slot",
          "coupled_seeing_window": "coupled gates that see the slot, window",
          "cost_0.3": "coupled gates that see the slot, window, write cost 0.3",
          "cost_1": "coupled gates that see the slot, window, write cost 1",
          "sparse": "coupled gates that see the slot, window, long sparse samples",
          "passed": "coupled gates that see the slot, window, passed states"}
ABLATIONS = {f"{run}_seed?": run for run in source.runs("ablations")}
RATES = {f"{run}_seed?": run for run in source.runs("rates")}
DRAWN = {"ablations": ("paper", "open", "null", "base"),
         "rates": ("rmt_5e-4", "armt_5e-4", "delta_1e-3", "window_1e-3"),
         "trials": ("paper's gates, window", "coupled gates, window",
                    "coupled gates that see the slot, window",
                    "coupled gates that see the slot, window, long sparse samples",
                    "coupled gates that see the slot, window, passed states"),
         "window": ("from step 1,500", "from step 1,500, three segments",
                    "from step 1,800, 4,500 steps", "from step 450, three segments")}  # if not all
COMPARED = {"memory": MEMORIES, "ablations": ABLATIONS, "rates": RATES, "window": WINDOWS,
            "trials": TRIALS, "rivals": RIVALS, "rivals_qa2": RIVALS}
TRAINING = ("step", "segments", "loss", "answer_accuracy")


def main(copies: list[str]) -> None:
    for copy in copies:
        name, _, workdir = copy.partition("=")
        copy_run(Path(workdir).absolute(), ROOT / RESULTS / name)
    os.chdir(ROOT)
    for name in SINGLE:
        draw(RESULTS / name)
    for name in COMPARED:
        compare(RESULTS / name, RESULTS / name)
    folder = RESULTS / "lm2_1b7_compile"
    (folder / "report.md").write_text(compilation.markdown(compilation.read_all(folder)), "utf-8")
    for page in PAGES:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")


def copy_run(workdir: Path, folder: Path) -> None:
    """Copies results.json, provenance.json and gates.json, and of metrics.jsonl what is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "provenance.json", "gates.json", "gates.png"):
        if (workdir / "eval" / name).exists():
            shutil.copy(workdir / "eval" / name, folder / name)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    with replacing(folder / "training.csv") as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRAINING)
        for line in lines:
            writer.writerow(f"{line[key]:.5g}" if isinstance(line[key], float) else line[key]
                            for key in TRAINING)


def draw(folder: Path) -> None:
    """Draws accuracy.png of a run, and training.png if its training.csv is there."""
    run = read_run(folder)
    longest = max(stage[1] for stage in run.config.data.curriculum)
    plots.plot_curves(run.rows, folder / "accuracy.png", name=folder.name,
                      trained_tokens=longest * run.config.model.segment_length)
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
             for pattern, label in COMPARED[folder.name].items()}
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
    if name in ("ablations", "rates", "trials", "window"):
        return by_trial(folder)
    if name in COMPARED:
        return by_model(folder)
    if name == "speed":
        return speed()
    if name == "context":
        return context.table(context.read(folder / "context.json")).markdown()
    if name in ("training_step", "training_step_lm2"):
        return step.table(step_times(name)).markdown()
    if name == "decode":
        return decode.table(rates()).markdown()
    if name == "device":
        return device.table(pieces()).markdown()
    if name == "memory_module":
        rows = json.loads((folder / "memory.json").read_text("utf-8"))["rows"]
        return memory.table([memory.Row(**row) for row in rows]).markdown()
    if name == "lm2_1b7_compile":
        return compiled(folder)
    if name == "lm2_1b7_roofline":
        return roofline_bounds(folder)
    if name == "bptt":
        return bptt.table(bptt.read_rows(folder / "bptt.json")).markdown()
    if name == "attention_kernels":
        rows = json.loads((folder / "attention.json").read_text("utf-8"))["rows"]
        return attention.table([attention.Row(**row) for row in rows]).markdown()
    if name == "buckets":
        return operations(folder / "operations.json")
    if name == "buckets/kills":
        return kills(*sorted(folder.parent.glob("kills_*.json")))
    if name == "compile_time":
        steps = json.loads((folder / "compile.json").read_text("utf-8"))["steps"]
        return compiling.table([compiling.Size(**step) for step in steps]).markdown()
    return kills(folder / "200_kills.json")


def step_times(name: str) -> list[step.Step]:
    """What `lm2 bench step` measured."""
    found = json.loads((RESULTS / name / "step.json").read_text("utf-8"))["steps"]
    return [step.Step(**one) for one in found]


def rates() -> list[decode.Rate]:
    """What `lm2 bench decode` measured."""
    found = json.loads((RESULTS / "decode" / "decode.json").read_text("utf-8"))["rates"]
    return [decode.Rate(**one) for one in found]


def pieces() -> list[Result]:
    """What `lm2 bench device` measured."""
    found = json.loads((RESULTS / "device" / "device.json").read_text("utf-8"))["pieces"]
    return [Result.from_dict(one) for one in found]


def speed() -> str:
    """Four lines about speed for the first page, from the tables of the others."""
    taken = {one.name: median(one.seconds) for one in step_times("training_step")}
    eager, built = (taken["as configured"] / taken[f"torch, {name}"]
                    for name in ("eager", "compiled"))
    decoding = {(rate.by, rate.batch): rate.decoding for rate in rates()}
    generation = [f"{decoding[decode.OURS, batch] / decoding[decode.THEIRS, batch]:.2f} "
                  f"(batch {batch})" for by, batch in decoding if by == decode.OURS]
    read = context.read(RESULTS / "context" / "context.json")
    lm2, full = read.of(read.lm2[0]), {p.tokens: p for p in read.of(read.full)}
    longest, both = lm2[-1], max((p for p in lm2 if p.tokens in full), key=lambda p: p.tokens)
    faster = median(full[both.tokens].seconds) / median(both.seconds)
    found = {piece.name: piece for piece in pieces()}
    mfu = {name: max((re.search(r"MFU ([\d.]+)", one.against)[1] for one in found[name].measures
                      if one.what.startswith("step")), key=float)
           for name in ("train LM2", "train llama")}
    (text,) = found["prefill full attention"].measures
    slower = re.match(r"([\d.]+) of sequential", text.against)[1]
    return "".join(f"- {line}.\n" for line in (
        f"A training step of a Llama of 10 M parameters takes {eager:.2f} of PyTorch's time "
        f"(eager), {built:.2f} (compiled)",
        "A Llama of 135 M parameters generates at the rate of transformers times "
        + " and ".join(generation),
        f"LM2 of 10 M parameters reads {longest.length} tokens at "
        f"{longest.tokens / median(longest.seconds):,.0f} a second, in "
        f"{longest.peak / 1e6:,.0f} MB; {both.length} in 1/{faster:.0f} of full attention's time",
        f"A training step of LM2 1.7 B reaches an MFU of {mfu['train LM2']} % on one H100, that of "
        f"its backbone {mfu['train llama']} %; LM2 reads 128k tokens {slower} times as fast as "
        "full attention"))


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


def half_lives(folder: Path) -> str:
    """The half-life of the median slot and dimension, blocks across."""
    rows = []
    for path in sorted(folder.glob("lm2_seed?/gates.json")):
        blocks = json.loads(path.read_text("utf-8"))
        rows.append([path.parent.name, *(f"{block['half_life'][1]:,.0f}" for block in blocks)])
    return Table(["run", *(f"block {i}" for i in range(len(rows[0]) - 1))], [rows]).markdown()


def compiled(folder: Path) -> str:
    """The peak memory of a chip on each topology."""
    def peak(steps: list[compilation.Step]) -> str:
        return f"{max(step.bytes['peak'] for step in steps) / compilation.GIB:.2f} GiB"

    rows = []
    for made in compilation.read_all(folder):
        train, *evaluation = made.steps
        rows.append([made.topology, " x ".join(map(str, made.mesh.values())),
                     re.search(r"(\d+) micro-batches", train.title)[1], peak([train]),
                     peak(evaluation), f"{made.memory / compilation.GIB:.0f} GiB"])
    return Table(["topology", "data x fsdp x tensor", "micro-batches", "peak of a chip, training",
                  "evaluation", "memory of a chip"], [rows], text_columns=2).markdown()


def roofline_bounds(folder: Path) -> str:
    """The best variant of each model on each topology, and what limits it."""
    best = roofline.best(roofline.read_rows(folder / "roofline.json"))
    rows = [[row.report.topology, row.variant.name, " x ".join(map(str, row.report.mesh.values())),
             *(f"{1e3 * row.step.bound[name]:,.0f}" for name in (
                 "arithmetic", "memory", "interconnect")),
             row.step.roofline.limit, f"{100 * row.mfu:.1f}"] for row in best]
    return Table(["topology", "variant", "data x fsdp x tensor", "arithmetic ms", "memory ms",
                  "interconnect ms", "limit", "MFU at the bound, %"], [rows],
                 text_columns=3).markdown()


def operations(path: Path) -> str:
    """What a save, a resume and the like cost in a bucket: kinds of operations across."""
    counts = json.loads(path.read_text("utf-8"))["counts"]
    kinds = list(counts[0]["operations"])
    return Table(["what", "store", *kinds], [
        [[one["what"], one["store"], *(str(one["operations"][kind]) for kind in kinds)]
         for one in counts if one["store"] == store] for store in ("gs", "s3")]).markdown()


def kills(*paths: Path) -> str:
    """What the kills of runs lost, one file of `kill_train.py` across."""
    facts = [json.loads(path.read_text("utf-8")) for path in paths]

    def text(value) -> str:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    rows = [[key, *(text(of_run.get(key, "-")) for of_run in facts)]
            for key in facts[0] if key not in ("each", "command")]
    names = [path.stem.removeprefix("kills_") if path.stem.startswith("kills_") else "result"
             for path in paths]
    return Table(["what", *names], [rows], text_columns=1 + len(names)).markdown()


if __name__ == "__main__":
    main(sys.argv[1:])
