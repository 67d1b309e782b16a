"""The tables of the measurements in this folder, of what `lm2 bench` and other tools wrote."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from lm2_jax.bench import attention, bptt, compiling, decode, device, memory, roofline, step
from lm2_jax.bench.measures import Result
from lm2_jax.report import compilation, context, costs, records
from lm2_jax.report.table import Table

RESULTS = Path("configs/results")  # from the root, so that reports name paths of the repository


def make_table(name: str) -> str:
    """Returns the table of this name as Markdown."""
    return TABLES[name]()


def read(path: str):
    """Returns what a JSON file in this folder holds."""
    return json.loads((RESULTS / path).read_text("utf-8"))


def memory_costs() -> costs.Costs:
    """What `lm2 bench costs` measured."""
    found = read("costs/costs.json")
    found.pop(records.MEASURED, None)
    return costs.Costs(**found | {"pairs": [costs.Pair(**pair) for pair in found["pairs"]]})


def step_times(name: str) -> list[step.Step]:
    """What `lm2 bench step` measured."""
    found = read(f"{name}/step.json")["steps"]
    return [step.Step(**one) for one in found]


def rates() -> list[decode.Rate]:
    """What `lm2 bench decode` measured."""
    found = read("decode/decode.json")["rates"]
    return [decode.Rate(**one) for one in found]


def pieces() -> list[Result]:
    """What `lm2 bench device` measured."""
    found = read("device/device.json")["pieces"]
    return [Result.from_dict(one) for one in found]


def speed() -> str:
    """Four lines about speed for the first page, from the tables of the others.

    Ratios are the medians of those of repetitions that followed each other, as in the tables.
    """
    def ratio(some: Sequence[float], others: Sequence[float]) -> float:
        return median(a / b for a, b in zip(some, others, strict=True))

    taken = {one.name: one.seconds for one in step_times("training_step")}
    eager, built = (ratio(taken["as configured"], taken[f"torch, {name}"])
                    for name in ("eager", "compiled"))
    rest = {(rate.by, rate.batch): rate.rest for rate in rates()}
    generation = [f"{ratio(rest[decode.THEIRS, batch], rest[decode.OURS, batch]):.2f} "
                  f"(batch {batch})" for by, batch in rest if by == decode.OURS]
    contexts = context.read(RESULTS / "context/context.json")
    lm2 = contexts.of(contexts.lm2[0])
    full = {p.tokens: p for p in contexts.of(contexts.full)}
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


def conversion() -> str:
    """What converting and tokenizing was measured to need, beside the goals."""
    logits, used, rate = (read(f"conversion/{name}.json")
                          for name in ("logits", "memory", "tokenizing"))
    limit = used["parameters"] + used["largest"] + 10**9
    rows = [
        [f"SmolLM2-135M, {logits['tokens']} tokens of a book: largest difference to the logits of "
         "transformers", f"{logits['largest_difference']:.1e} (standard deviation "
         f"{logits['standard_deviation']:.1f})", "-"],
        ["the same: tokens with equal argmax", str(logits["same_argmax"]), str(logits["tokens"])],
        ["SmolLM2-135M, converted and exported again: tensors with the same bytes",
         str(logits["tensors_that_came_back"]), str(logits["tensors"])],
        [f"a Llama of {used['parameters'] / 4e9:.2f} billion parameters, converted: peak of "
         "anonymous memory, GB", f"{used['peak'] / 1e9:.2f}", f"at most {limit / 1e9:.2f}"],
        [f"{rate['megabytes']} MB of books, tokenized to shards: rate over `encode_batch_fast`",
         f"{rate['rate_over_encode_batch_fast']:.2f}", "at least 0.7"]]
    return Table(["what", "measured", "goal"], [rows]).markdown()


def compiled(name: str) -> str:
    """The peak memory of a chip on each topology."""
    def peak(steps: list[compilation.Step]) -> str:
        if not steps:
            return "-"
        return f"{max(step.bytes['peak'] for step in steps) / compilation.GIB:.2f} GiB"

    rows = []
    for made in compilation.read_all(RESULTS / name):
        train, *evaluation = made.steps
        rows.append([made.topology, " x ".join(map(str, made.mesh.values())),
                     re.search(r"(\d+) micro-batches", train.title)[1], peak([train]),
                     peak(evaluation), f"{made.memory / compilation.GIB:.0f} GiB"])
    return Table(["topology", "data x fsdp x tensor", "micro-batches", "peak of a chip, training",
                  "evaluation", "memory of a chip"], [rows], text_columns=2).markdown()


def roofline_bounds() -> str:
    """The best variant of each model on each topology, and what limits it."""
    best = roofline.best(roofline.read_rows(RESULTS / "lm2_1b7_roofline/roofline.json"))
    rows = [[row.report.topology, row.variant.name, " x ".join(map(str, row.report.mesh.values())),
             *(f"{1e3 * row.step.bound[name]:,.0f}" for name in (
                 "arithmetic", "memory", "interconnect")),
             row.step.roofline.limit, f"{100 * row.mfu:.1f}"] for row in best]
    return Table(["topology", "variant", "data x fsdp x tensor", "arithmetic ms", "memory ms",
                  "interconnect ms", "limit", "MFU at the bound, %"], [rows],
                 text_columns=3).markdown()


def inside() -> str:
    """The answers, linear probes and gradients of `lm2 analyze`, by segments since the fact."""
    found = read("inside/analysis.json")
    probe, gradient = found["probe"], found["gradient"]
    rows = [[str(segments), *(f"{100 * shares[at]:.1f}" for shares in probe["accuracy"].values()),
             *(f"{1e3 * median(norm for norm in gradient[of][at] if norm is not None):.2f}"
               for of in ("fact", "prose"))]
            for at, segments in enumerate(probe["segments"])]
    return Table(["segments since the fact", *(f"{name}, %" for name in probe["accuracy"]),
                  "1000 x gradient to the fact, median", "to prose"], [rows]).markdown()


def operations() -> str:
    """What a save, a resume and the like cost in a bucket: kinds of operations across."""
    counts = read("buckets/operations.json")["counts"]
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


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "context": lambda: context.table(context.read(RESULTS / "context/context.json")).markdown(),
    "costs": lambda: costs.table(memory_costs()).markdown(),
    "training_step": lambda: step.table(step_times("training_step")).markdown(),
    "training_step_lm2": lambda: step.table(step_times("training_step_lm2")).markdown(),
    "decode": lambda: decode.table(rates()).markdown(),
    "device": lambda: device.table(pieces()).markdown(),
    "memory_module": lambda: memory.table(
        [memory.Row(**row) for row in read("memory_module/memory.json")["rows"]]).markdown(),
    "lm2_1b7_compile": lambda: compiled("lm2_1b7_compile"),
    "pretrain_smollm_compile": lambda: compiled("pretrain_smollm_compile"),
    "conversion": conversion,
    "lm2_1b7_roofline": roofline_bounds,
    "bptt": lambda: bptt.table(bptt.read_rows(RESULTS / "bptt/bptt.json")).markdown(),
    "attention_kernels": lambda: attention.table(
        [attention.Row(**row) for row in read("attention_kernels/attention.json")["rows"]]
    ).markdown(),
    "compile_time": lambda: compiling.table(
        [compiling.Size(**one) for one in read("compile_time/compile.json")["steps"]]).markdown(),
    "inside": inside,
    "buckets": operations,
    "buckets/kills": lambda: kills(*sorted((RESULTS / "buckets").glob("kills_*.json"))),
    "kill_train": lambda: kills(RESULTS / "kill_train/200_kills.json"),
}
