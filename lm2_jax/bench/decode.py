"""`lm2 bench decode`: rates of reading a prompt and of generating after it."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import jax
import numpy as np
import optax

from lm2_jax.bench import torch_process
from lm2_jax.checkpoint import workdir as runs
from lm2_jax.config import Config, MeshConfig, with_vocab_size
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.sampling import Sampling
from lm2_jax.model.lm import LanguageModel
from lm2_jax.report import records
from lm2_jax.report.table import Table
from lm2_jax.runtime import meshes, paths
from lm2_jax.runtime.console import Console
from lm2_jax.training import state as train_state

OURS, THEIRS = "lm2_jax", "transformers"


@dataclasses.dataclass(frozen=True)
class Rate:
    """The measurement of one batch size.

    Attributes:
      by: what was measured: OURS or THEIRS.
      batch: number of rows.
      prompt: tokens of each row's prompt.
      new: tokens generated in each row.
      first: seconds from the prompts to the first token, of each repetition.
      rest: seconds from the first token to the last, of each repetition.
    """

    by: str
    batch: int
    prompt: int
    new: int
    first: Sequence[float]
    rest: Sequence[float]

    @property
    def reading(self) -> float:
        """Tokens of the prompts a second, the first token included."""
        return self.batch * self.prompt / median(self.first)

    @property
    def decoding(self) -> float:
        """Generated tokens a second, without the first."""
        return self.batch * (self.new - 1) / median(self.rest)


def run(config: Config | None, workdir: str | Path | None, batches: Sequence[int], prompt: int,
        new: int, repeats: int, out: str | Path, torch_python: str = "",
        console: Console | None = None) -> list[Rate]:
    """Measures greedy generation after random tokens on one device; prints and writes the table.

    Every batch size is run once before it is measured, so that everything is compiled.
    Measurements of the two libraries alternate.

    Args:
      config: of an untrained model; None measures the model of `workdir`.
      batches: numbers of rows.
      prompt: tokens of each prompt.
      new: tokens to generate in each row, 2 at least.
      repeats: measurements of each batch size.
      out: folder of decode.json and decode.md.
      torch_python: path of a Python that has torch and transformers: also measure an untrained
        Llama of the backbone's shape there; "" = none.

    Raises:
      UserError: if an argument cannot be used.
    """
    console = console or Console()
    if not batches or min(*batches, prompt, repeats) < 1 or new < 2:
        raise UserError(f"--batches is {','.join(map(str, batches))!r}, --prompt {prompt}, --new "
                        f"{new}, --repeats {repeats}; there must be 1 of each at least, and 2 new")
    name, model, params, mesh = _model(config, workdir)
    engine, rates = Engine(model, params, pad_id=0), []
    drawn = np.random.default_rng(0).integers(model.config.vocab_size, size=(max(batches), prompt),
                                              dtype=np.int32)
    facts: dict = {}
    with contextlib.ExitStack() as running, jax.set_mesh(mesh):
        measured: dict[str, Callable[[int], tuple[float, float]]] = {
            OURS: lambda rows: generate(engine, list(drawn[:rows]), new)}
        if torch_python:
            facts, measured[THEIRS] = running.enter_context(torch_process.llama(
                torch_python, model.config, "generate", prompt=prompt, new=new))
        for batch in batches:
            times = [[measure(batch) for measure in measured.values()]
                     for _ in range(repeats + 1)][1:]
            for by, seconds in zip(measured, zip(*times, strict=True), strict=True):
                first, rest = zip(*seconds, strict=True)
                rates.append(Rate(by, batch, prompt, new, first, rest))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    heading = (f"{name} on one {jax.devices()[0].device_kind}: {size:,} parameters, segments of "
               f"{model.config.segment_length} tokens, {model.config.dtype}, "
               f"{torch_process.cores()} cores; jax {jax.__version__}" + "".join(
                   f", {name} {facts[name]}" for name in ("torch", "transformers") if facts))
    console.print(heading)
    console.print(table(rates).terminal())
    facts = {"model": name, "device": jax.devices()[0].device_kind, "parameters": size,
             "other": facts, "rates": [dataclasses.asdict(rate) for rate in rates]}
    for path in records.write(paths.of(out), "decode", facts, heading, table(rates), indent=2):
        console.print(str(path))
    return rates


def _model(config: Config | None, workdir: str | Path | None):
    """Returns (name, model, parameters, mesh) of a run, or of an untrained model."""
    if config is None:
        if workdir is None:
            raise UserError("lm2 bench decode needs --config (untrained) or --workdir (trained)")
        run = runs.load(workdir)
        mesh = meshes.for_evaluation(run.config, jax.devices()[:1])
        return str(workdir), run.model, run.variables, mesh
    if not config.model.vocab_size:
        words = corpus.make_tokenizer(config.data, config.seed)
        config = with_vocab_size(config, words.vocab_size, corpus.vocab_multiple(config.data))
    config = dataclasses.replace(config, mesh=MeshConfig())
    mesh, model = meshes.for_evaluation(config, jax.devices()[:1]), LanguageModel(config.model)
    params = train_state.create(model, optax.identity(), config.seed, mesh)[0].params
    return "an untrained model", model, params, mesh


def generate(engine: Engine, prompts: Sequence[np.ndarray], new: int) -> tuple[float, float]:
    """Generates `new` tokens after the prompts; returns the seconds to the first, and from there to
    the last."""
    begun, first = time.perf_counter(), 0.0
    for _ in engine.generate(engine.read(prompts), Sampling(), new):
        first = first or time.perf_counter()
    return first - begun, time.perf_counter() - first


def table(rates: Sequence[Rate]) -> Table:
    """A row for each batch size and library, from the medians of its repetitions."""
    def ratio(rate: Rate, rival: Rate | None, part: Callable[[Rate], Sequence[float]]) -> str:
        if rival is None:
            return "-"
        ratios = [b / a for a, b in zip(part(rate), part(rival), strict=True)]
        return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"

    rivals = {rate.batch: rate for rate in rates if rate.by == THEIRS}
    rows = []
    for rate in rates:
        rival = rivals.get(rate.batch)
        rows.append([
            rate.by, f"{rate.batch}", f"{rate.prompt:,}", f"{rate.new:,}",
            f"{1e3 * median(rate.first):,.1f}", f"{rate.reading:,.1f}",
            ratio(rate, rival, lambda rate: rate.first),
            f"{1e3 * median(rate.rest) / (rate.new - 1):,.2f}", f"{rate.decoding:,.1f}",
            ratio(rate, rival, lambda rate: rate.rest)])
    return Table(["library", "rows", "prompt\ntokens", "new\ntokens", "ms to the\nfirst token",
                  "prompt\ntokens/s", "rate over\ntransformers'", "ms a step", "new\ntokens/s",
                  "rate over\ntransformers'"], [rows],
                 note="Medians of the repetitions; the ratios are those of repetitions that "
                      "followed each other, with the lowest and the highest. A step computes a "
                      "token in each row.")
