"""`lm2 bench context`: time and memory of reading contexts, by LM2 and by other models."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from lm2_jax import partition
from lm2_jax.bench import prefill
from lm2_jax.bench.prefill import Work
from lm2_jax.config import Config, MemoryConfig, ModelConfig, parse_length
from lm2_jax.errors import RunError, UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.model.schedule import wavefront_groups
from lm2_jax.report import context as report
from lm2_jax.report import records
from lm2_jax.report.context import Contexts, Point
from lm2_jax.runtime import children, paths
from lm2_jax.runtime.console import Console

SEQUENTIAL, WAVEFRONT, RMT, ARMT, WINDOW, FULL = (
    "LM2 sequential", "LM2 wavefront", "RMT", "ARMT", "sliding window", "full attention")
MODELS = (SEQUENTIAL, WAVEFRONT, RMT, ARMT, WINDOW, FULL)
MEMORY_TOKENS = 16  # number of memory tokens of RMT and ARMT
LEFT = 0.9  # share of the available memory that a process may allocate


def run(config: Config, lengths: Sequence[str], models: Sequence[str], repeats: int,
        minutes: float, out: str | Path, console: Console | None = None) -> Contexts:
    """Measures reading a context of each length by each model, one row on the default device.

    Each measurement is a process of its own. What a file in `out` has of the same config and device
    is kept, and each new measurement is written at once, so that an interrupted call goes on.

    Args:
      config: of an LM2 with a vocabulary size; the other models have its backbone.
      models: some of MODELS.
      repeats: measurements of a context that takes less than a minute; others are read once.
      minutes: the most that reading a context may take.

    Raises:
      UserError: if an argument cannot be used, or `out` has measurements of something else.
      RunError: if a process fails for another reason than time or memory.
    """
    console, c = console or Console(), config.model
    if not c.memory.num_layers or c.memory.kind != "lm2" or not c.vocab_size:
        raise UserError("lm2 bench context compares an LM2 with others: it needs a config with "
                        "model.memory.kind=lm2, model.memory.num_layers and model.vocab_size")
    if unknown := [name for name in models if name not in MODELS]:
        raise UserError(f"--models has {unknown[0]!r}; it must name some of {', '.join(MODELS)}")
    if not lengths or not models or repeats < 1 or minutes <= 0:
        raise UserError("--lengths and --models must name one at least, --repeats must be 1 at "
                        "least and --minutes above 0")
    sizes = {length: parse_length(length, "--lengths") for length in lengths}
    if short := [length for length, tokens in sizes.items() if tokens <= c.segment_length]:
        raise UserError(f"--lengths has {short[0]}; a context must be longer than "
                        f"model.segment_length = {c.segment_length} tokens")
    facts, path = _facts(config, minutes), paths.of(out) / "context.json"
    points = {}
    if path.exists():
        stored = report.read(path)
        if different := [key for key in ("what", "device", "versions", "model", "note")
                         if stored.facts[key] != facts[key]]:
            raise UserError(f"{path} has measurements of another {different[0]}; remove it, or "
                            "take another --out")
        points = {(p.model, p.tokens): p for p in stored.points}
    for name in models:
        for length, tokens in sorted(sizes.items(), key=lambda item: item[1]):
            if (name, tokens) not in points:
                points[name, tokens] = _point(config, name, length, tokens, repeats, minutes,
                                              points)
                p = points[name, tokens]
                console.print(f"{name}, {length}: " + (p.failure or f"{p.seconds[0]:.2f} s"))
                report.write(paths.of(out), _contexts(facts, points))
    found = _contexts(facts, points)
    console.print(report.heading(found))
    console.print(report.table(found).terminal())
    for file in report.write(paths.of(out), found):
        console.print(str(file))
    return found


def variant(model: ModelConfig, name: str, tokens: int) -> ModelConfig:
    """Returns one of MODELS, with the backbone of an LM2, for a context of so many tokens."""
    def memory(**changes) -> MemoryConfig:
        return dataclasses.replace(model.memory, **changes)

    tokens_of = dict(num_slots=MEMORY_TOKENS, top_k=0, write_top_k=0,
                     num_layers=model.num_layers)
    changes: dict[str, dict] = {
        SEQUENTIAL: dict(schedule="sequential"),
        WAVEFRONT: dict(schedule="wavefront"),
        RMT: dict(memory=memory(kind="rmt", **tokens_of), schedule="sequential"),
        ARMT: dict(memory=memory(kind="armt", **tokens_of), schedule="sequential"),
        WINDOW: dict(memory=memory(num_layers=0), attention_window=model.segment_length,
                     schedule="sequential"),
        FULL: dict(memory=memory(num_layers=0), attention_window=0, segment_length=tokens,
                   schedule="sequential")}
    return dataclasses.replace(model, **changes[name])


def _contexts(facts: dict, points: dict[tuple[str, int], Point]) -> Contexts:
    ordered = sorted(points.values(), key=lambda p: (MODELS.index(p.model), p.tokens))
    return Contexts(facts, (SEQUENTIAL, WAVEFRONT), FULL, ordered)


def _facts(config: Config, minutes: float) -> dict:
    """What the heading says, and what decides whether measurements can stand in one table."""
    def parameters(model: ModelConfig) -> int:
        mesh = partition.make_mesh({}, 1)
        return sum(a.size for a in jax.tree.leaves(abstract_params(LanguageModel(model), mesh)))

    c, device = config.model, jax.devices()[0]
    backbone = variant(c, WINDOW, 0)
    auto = wavefront_groups(c, 10**6, 1, "auto")
    return {
        "what": f"a backbone of {parameters(backbone):,} parameters, LM2 with {parameters(c):,}, "
                f"segments of {c.segment_length} tokens, one row",
        "device": f"{device.device_kind}, {len(os.sched_getaffinity(0))} cores"
                  if device.platform == "cpu" else device.device_kind,
        "versions": f"jax {jax.__version__}, Python {sys.version.split()[0]}",
        "date": records.today(),
        "model": json.loads(json.dumps(dataclasses.asdict(c))),
        "note": "Times are medians; without logits. Full attention is one causal call, and the "
                "others are streamed segment by segment. Peak memory is that of a process of its "
                f"own while it reads. A context may take {minutes:g} min. model.schedule=auto "
                f"takes the {'wavefront' if auto else 'sequential schedule'} here."}


def _point(config: Config, name: str, length: str, tokens: int, repeats: int, minutes: float,
           known: dict[tuple[str, int], Point]) -> Point:
    """Measures one model at one length. After a failure at a shorter length it is not tried."""
    for (other, size), point in known.items():
        if other == name and size < tokens and point.failure:
            reason = point.failure.partition(" (")[0]
            return Point(name, length, tokens, failure=f"{reason} (at {point.length})")
    work = Work(variant(config.model, name, tokens), tokens, config.seed, repeats,
                int(LEFT * _available()))
    found = _in_child(work, minutes)
    if isinstance(found, str):
        return Point(name, length, tokens, failure=found)
    if max(found["seconds"]) > 60 * minutes:
        return Point(name, length, tokens, failure=f"over {minutes:g} min")
    return Point(name, length, tokens, tuple(found["seconds"]), found["peak"])


def _in_child(work: Work, minutes: float) -> dict | str:
    """Returns what `prefill.measure` does in a child process; or why it could not."""
    rest = (work.repeats - 1) * prefill.ENOUGH  # all but the first are shorter
    status, output, said = children.ask(prefill.__name__, work.to_json(), prefill.BEGUN,
                                        60 * minutes + rest)
    if status is None:
        return f"over {minutes:g} min"
    if status == 0:
        return json.loads(output)
    if status in (-6, -9) or any(words in said for words in (
            "RESOURCE_EXHAUSTED", "Out of memory", "MemoryError", "bad_alloc",
            "Cannot allocate memory")):
        return "out of memory"
    reason = (said.strip() or f"status {status}").splitlines()[-1]
    raise RunError(f"reading {work.tokens:,} tokens failed: {reason}")


def _available() -> int:
    """Bytes of memory that are left on this machine; 0 if the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else 0
