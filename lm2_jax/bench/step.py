"""`lm2 bench step`: time, FLOPs and memory of the training step and of its variants."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import jax

from lm2_jax.bench import torch_process
from lm2_jax.bench.costs import Model
from lm2_jax.bench.timing import timed
from lm2_jax.bench.torch_process import cores
from lm2_jax.config import Config, MeshConfig, with_vocab_size
from lm2_jax.config.model import REMAT_POLICIES
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.report import records
from lm2_jax.report.table import Table
from lm2_jax.runtime import compilation_cache, paths
from lm2_jax.runtime.console import Console
from lm2_jax.training.clock import flops_per_token

MB = 1e6


@dataclasses.dataclass(frozen=True)
class Step:
    """A variant of the training step.

    Attributes:
      name: of the variant, as "remat dots".
      parameters: number of parameters of the model.
      flops: of the step by the model's own count, without recomputation.
      memory: peak bytes of the compiled program, by XLA's plan; None for another library.
      compiling: seconds that compilation took; None for another library.
      seconds: of each repetition. The repetitions of the variants alternate.
    """

    name: str
    parameters: int
    flops: float
    memory: int | None
    compiling: float | None
    seconds: Sequence[float]


@compilation_cache.disabled()
def run(config: Config, name: str, *, remat: bool, torch_python: str, repeats: int,
        out: str | Path, console: Console | None = None) -> list[Step]:
    """Measures untrained models on random tokens on one device; prints and writes the table.

    The step is that of the last stage of the curriculum, with full rows. It is compared with that
    of the model without its memory, and with the variants that the arguments ask for. The
    repetitions of the variants alternate; each is the second of two steps in a row, since in
    training a step follows another.

    Args:
      name: of the config, for the heading.
      remat: also measure every `model.remat`, with and without `train.remat_segments`.
      torch_python: path of a Python that has torch and transformers: also measure a Llama of the
        backbone's shape there, eager and compiled; "" = none.
      repeats: measurements of each variant.
      out: folder of step.json and step.md.

    Raises:
      UserError: if an argument cannot be used or the other Python fails.
    """
    console = console or Console()
    if repeats < 1:
        raise UserError(f"--repeats is {repeats}; it must be 1 at least")
    if not config.model.vocab_size:
        words = corpus.make_tokenizer(config.data, config.seed)
        config = with_vocab_size(config, words.vocab_size, corpus.vocab_multiple(config.data))
    config = dataclasses.replace(config, mesh=MeshConfig())
    segments, rows = config.data.curriculum[-1][1], config.batch_sizes()[-1]
    tokens = rows * segments * config.model.segment_length
    measured: list[tuple[Step, Callable[[], float], list[float]]] = []
    with contextlib.ExitStack() as running:
        for title, way in _ways(config, remat):
            model, begun = Model(way), time.perf_counter()
            work, memory = model.training(segments, rows)
            compiling = time.perf_counter() - begun
            step = Step(title, model.parameters, tokens * flops_per_token(way.model), memory,
                        compiling, ())
            measured.append((step, timed(work), []))
            for _ in range(2):
                work()
            console.print(f"{title}: compiled in {compiling:.1f} s")
        for compiled in (False, True) if torch_python else ():
            backbone = _without_memory(config)
            # Rows of several segments are rows of their own there, since its attention sees all
            # tokens of a row.
            facts, ask = running.enter_context(torch_process.llama(
                torch_python, backbone.model, "train", rows=rows * segments,
                tokens=config.model.segment_length, compiled=compiled))
            title = f"torch, {'compiled' if compiled else 'eager'}"
            measured.append((Step(title, facts["parameters"],
                                  tokens * flops_per_token(backbone.model), None, None, ()),
                             functools.partial(ask, None), []))
            console.print(f"{title}: ready")
        for repeat in range(repeats):
            for _, work, seconds in measured if repeat % 2 == 0 else reversed(measured):
                work()  # its memory and caches are another variant's
                seconds.append(work())
    steps = [dataclasses.replace(step, seconds=seconds) for step, _, seconds in measured]
    heading = (f"{name} on one {jax.devices()[0].device_kind}, {cores()} cores: {rows} "
               f"rows of {segments} segments of {config.model.segment_length} tokens, "
               f"{config.model.dtype}, jax {jax.__version__}")
    console.print(heading)
    console.print(table(steps).terminal())
    facts = {"config": name, "device": jax.devices()[0].device_kind,
             "cores": cores(), "rows": rows, "segments": segments, "versions": {
                 package: importlib.metadata.version(package) for package in ("jax", "flax")},
             "model": dataclasses.asdict(config.model),
             "steps": [dataclasses.asdict(step) for step in steps]}
    for path in records.write(paths.of(out), "step", facts, heading, table(steps), indent=2):
        console.print(str(path))
    return steps


def _ways(config: Config, remat: bool) -> Iterator[tuple[str, Config]]:
    """Yields the variants: as configured, without the memory, and with each remat setting."""
    yield "as configured", config
    if config.model.memory.num_layers:
        yield "without the memory", _without_memory(config)
    for policy in REMAT_POLICIES if remat else ():
        for segments in (False, True):
            model = dataclasses.replace(config.model, remat=policy)
            train = dataclasses.replace(config.train, remat_segments=segments)
            title = f"remat {policy}" + (" and segments" if segments else "")
            yield title, dataclasses.replace(config, model=model, train=train)


def _without_memory(config: Config) -> Config:
    memory = dataclasses.replace(config.model.memory, num_layers=0)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, memory=memory))


def table(steps: Sequence[Step]) -> Table:
    """A row for each variant. Ratios are over the first row, of the same repetition."""
    first, rows = steps[0], []
    for step in steps:
        ratios = [a / b for a, b in zip(step.seconds, first.seconds, strict=True)]
        rows.append([
            step.name, f"{step.parameters:,}", f"{step.flops / 1e9:,.1f}",
            f"{step.flops / first.flops:.2f}",
            *(f"{1e3 * pick(step.seconds):,.1f}" for pick in (min, median, max)),
            f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{step.flops / min(step.seconds) / 1e9:,.1f}",
            "-" if step.memory is None else f"{step.memory / MB:,.1f}",
            "-" if step.compiling is None else f"{step.compiling:.1f}"])
    return Table(["step", "parameters", "GFLOP", "ratio", "ms, least", "median", "most",
                  "ratio\n(lowest-highest)", "GFLOP/s", "peak MB", "s to\ncompile"], [rows],
                 note="Ratios are over the first row. FLOPs are the model's own count, without "
                 "recomputation, and the rate is that of the fastest step. Peak memory is that of "
                 "the compiled program, by XLA's plan: arguments, results and temporaries.")
