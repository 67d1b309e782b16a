"""The measurements of `lm2 bench device`."""

import dataclasses
import functools
import resource
import time
from collections.abc import Sequence
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm2_jax.bench import costs
from lm2_jax.bench.decode import generate
from lm2_jax.bench.measures import Measure, Scale, times
from lm2_jax.config import Config, MeshConfig, ModelConfig
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.reading import CHUNK
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state
from lm2_jax.report import roofline
from lm2_jax.report.table import percent
from lm2_jax.runtime import meshes
from lm2_jax.training import clock
from lm2_jax.training import state as train_state
from lm2_jax.types import Params

Found = tuple[list[Measure], dict[str, float]]
PRODUCTS = 16  # matrix products, one after the other, in each timed call
# (train.remat_segments, model.remat) of the steps that are timed; the fastest one counts.
REMAT = ((False, "dots"), (True, "dots"), (False, "full"))
MARGIN = 1.4  # bytes of a compiled step over those of the formula, at most
MILLI, TERA, GIGA, GIB = 1e-3, 1e12, 1e9, 2**30


class NotMeasured(Exception):
    """A piece cannot be measured here, for a reason that is no fault of the program."""


@dataclasses.dataclass
class Bench:
    """What a piece is measured with.

    Attributes:
      config: of the model with a memory.
      scale: sizes of the model and of the inputs.
      known: values of earlier pieces by name.
    """

    config: Config
    scale: Scale
    known: dict[str, float]

    @property
    def backbone(self) -> Config:
        """The same model without the memory."""
        memory = dataclasses.replace(self.config.model.memory, num_layers=0)
        return dataclasses.replace(self.config, model=dataclasses.replace(
            self.config.model, memory=memory))

    def utilisation(self, flops_per_second: float) -> str:
        """FLOP/s over the published and the measured peak of the device, as text."""
        peak, rate = clock.peak_flops(jax.devices()[:1]), self.known.get("matrix_rate")
        parts = [] if peak is None else [
            f"MFU {percent(flops_per_second / peak)} % of {peak / TERA:,.0f} TFLOP/s"]
        if rate:
            parts.append(f"{percent(flops_per_second / rate)} % of the measured rate of products")
        return ", ".join(parts)


def ceilings(bench: Bench) -> Found:
    """The rate of large products in bfloat16, and the bandwidth of copying."""
    n, count = bench.scale.matrix, bench.scale.copied // 2
    # Products of random numbers: those of constants take less power, and run faster on GPUs.
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16) / n**0.5
    x = jnp.ones(count, jnp.bfloat16)
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, PRODUCTS, lambda _, b: a @ b, a))
    add = jax.jit(lambda x: x + 1)
    rates = [PRODUCTS * 2 * n**3 / seconds for seconds in times(lambda: chain(a),
                                                                bench.scale.repeats)]
    copies = [4 * count / seconds for seconds in times(lambda: add(x), bench.scale.repeats)]
    peak, peaks = clock.peak_flops(jax.devices()[:1]), roofline.chip(jax.devices()[0].device_kind)
    return [
        Measure(f"product of {n} x {n} matrices, bfloat16", [r / TERA for r in rates], "TFLOP/s",
                f"{percent(median(rates) / peak)} % of {peak / TERA:,.0f}" if peak else ""),
        Measure("copy, read and written", [c / GIGA for c in copies], "GB/s",
                f"{percent(median(copies) / peaks.memory)} % of {peaks.memory / GIGA:,.0f}"
                if peaks else ""),
    ], {"matrix_rate": median(rates), "copy_rate": median(copies)}


def train_llama(bench: Bench) -> Found:
    """Training steps of the backbone."""
    return _train(bench, bench.backbone, "llama")


def train_lm2(bench: Bench) -> Found:
    """Training steps of the model with a memory."""
    found, values = _train(bench, bench.config, "LM2")
    of_llama = bench.known.get("llama_token_seconds")
    if of_llama:
        ratio = values["LM2_token_seconds"] / of_llama
        flops = clock.flops_per_token(bench.config.model) / clock.flops_per_token(
            bench.backbone.model)
        found.append(Measure("time of a token over llama's", [ratio], "x",
                             f"FLOPs {flops:.2f} x; {ratio / flops:.2f} of that"))
    return found, values


def _train(bench: Bench, config: Config, name: str) -> Found:
    # The backbone carries nothing from one segment to the next, so that each may be a row.
    segments = bench.scale.segments if config.model.memory.num_layers else 1
    T = config.model.segment_length
    flops, found, best = clock.flops_per_token(config.model), [], (float("inf"), 0)
    for remat_segments, remat in REMAT:
        step = _largest_step(bench, segments, dataclasses.replace(
            config, mesh=MeshConfig(), model=dataclasses.replace(config.model, remat=remat),
            train=dataclasses.replace(config.train, remat_segments=remat_segments,
                                      rows_per_device=0)))
        if step is None:
            continue
        rows, work, peak = step
        tokens, seconds = rows * segments * T, times(work, bench.scale.repeats)
        best = min(best, (median(seconds) / tokens, rows * segments))
        what = (f"{rows} rows of {segments} segments of {T} tokens, remat {remat}"
                + (", segments recomputed" if remat_segments else ""))
        found += [
            Measure(f"step, {what}", [s / MILLI for s in seconds], "ms",
                    bench.utilisation(flops * tokens / median(seconds))),
            Measure("tokens", [tokens / s for s in seconds], "a second"),
            Measure("peak memory by XLA's plan", [peak / GIB], "GiB"),
        ]
        del work, step  # the parameters and the moments, before those of the next setting
    if not found:
        raise NotMeasured(f"no step of {segments} segments fits into {_limit() / GIB:.1f} GiB")
    return found, {f"{name}_token_seconds": best[0], f"{name}_rows": float(best[1])}


def _largest_step(bench: Bench, segments: int, config: Config):
    """(rows, work, peak bytes) of the step with the most rows that fits, or None.

    Numbers of rows that are planned to fit are compiled, the largest first, until one does.
    """
    limit = _limit()
    for rows in (rows * bench.scale.segments // segments for rows in bench.scale.rows):
        if MARGIN * _planned(config, segments, rows) <= limit:
            if step := _step_within(limit, segments, rows, config):
                return rows, *step
    return None


def _step_within(limit: float, segments: int, rows: int, config: Config):
    """(work, peak bytes) of a step that fits into so many bytes and has run once; else None."""
    try:
        work, peak = costs.Model(config).training(segments, rows)
        if peak <= limit:
            jax.block_until_ready(work())
            return work, peak
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    return None


def _planned(config: Config, segments: int, rows: int) -> float:
    """About how many bytes a step takes, to leave out compilations that cannot fit."""
    from lm2_jax.report import formulas

    mesh = meshes.for_training(dataclasses.replace(config, mesh=MeshConfig()), jax.devices()[:1],
                               evaluates=False)
    return formulas.training_step(config, mesh, rows, segments, 1).peak


def _limit() -> float:
    """Bytes that this process may take of the device; infinite if that is not known."""
    stats = jax.devices()[0].memory_stats() or {}
    return float(stats.get("bytes_limit", float("inf")))


def _used() -> float:
    """The most bytes that this process has had in use: on the device, or resident on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux
    return float(stats.get("peak_bytes_in_use", resident))


@functools.lru_cache(maxsize=1)
def _params(model: ModelConfig) -> Params:
    """Random parameters in the compute dtype, as a model is kept that only reads."""
    config = dataclasses.replace(Config(), model=model)
    mesh = meshes.for_training(config, jax.devices()[:1], evaluates=False)
    params = train_state.create(LanguageModel(model), optax.identity(), 0, mesh)[0].params
    return jax.jit(lambda tree: jax.tree.map(lambda a: a.astype(model.dtype), tree),
                   donate_argnums=0)(params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(model: LanguageModel, schedule: str, params: Params, tokens_BL):
    """The state after a text, and its last hidden vector."""
    out = apply_segments(model, params, tokens_BL, init_state(model.config, len(tokens_BL)),
                         schedule=schedule, logits=False)
    assert out.hidden is not None  # logits=False
    return out.state, out.hidden[:, -1]


def _random(config: ModelConfig, rows: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(config.vocab_size, size=(rows, tokens),
                                             dtype=np.int32)


def prefill_sequential(bench: Bench) -> Found:
    """The short and the long context, one row, segment by segment."""
    return _prefill(bench, bench.config.model, "sequential", bench.scale.lengths[:2])


def prefill_wavefront(bench: Bench) -> Found:
    """The same contexts by the wavefront schedule."""
    return _prefill(bench, bench.config.model, "wavefront", bench.scale.lengths[:2])


def prefill_full(bench: Bench) -> Found:
    """The long context by the backbone with attention over all of it."""
    T, segments = bench.config.model.segment_length, bench.scale.lengths[1]
    model = dataclasses.replace(bench.backbone.model, segment_length=T * segments)
    return _prefill(bench, model, "sequential", [1], "full attention")


def _prefill(bench: Bench, model: ModelConfig, schedule: str, lengths: Sequence[int],
             name: str = "") -> Found:
    """Reads contexts of these numbers of segments; compares with earlier pieces that read as many
    tokens."""
    name = name or schedule
    found, values = [], {}
    for segments in lengths:
        tokens = segments * model.segment_length
        tokens_1L = _random(model, 1, tokens)
        work = functools.partial(_read, LanguageModel(model), schedule, _params(model), tokens_1L)
        seconds = times(work, bench.scale.repeats)
        values[f"{name} {tokens}"] = median(seconds)
        others = [f"{median(seconds) / bench.known[key]:.2f} of {key.rpartition(' ')[0]}"
                  for key in bench.known if key.endswith(f" {tokens}")]
        found.append(Measure(f"{tokens:,} tokens, {name}", [s / MILLI for s in seconds], "ms",
                             "; ".join(others)))
    return found, values


def longest_prefill(bench: Bench) -> Found:
    """The memory in use after the short context and after the longest, read as a stream."""
    model, T = bench.config.model, bench.config.model.segment_length
    engine = Engine(LanguageModel(model), _params(model), pad_id=0)
    found, used = [], []

    def read(segments: int) -> float:
        prompts = list(_random(model, 1, segments * T + 1))
        begun = time.perf_counter()
        jax.block_until_ready(engine.read(prompts).state)
        return time.perf_counter() - begun

    for segments in (bench.scale.lengths[0], bench.scale.lengths[2]):
        read(min(segments, CHUNK + 1))  # compiles what the context needs
        seconds = read(segments)
        used.append(_used())
        found.append(Measure(f"{segments * T:,} tokens", [seconds], "s"))
    found.append(Measure("peak memory in use", [used[1] / GIB], "GiB",
                         f"{used[1] / used[0]:.3f} of that of {found[0].what}"))
    return found, {}


def decode(bench: Bench) -> Found:
    """New tokens a second, compared with the bandwidth for the bytes that each step has to read."""
    model, scale = bench.config.model, bench.scale
    engine = Engine(LanguageModel(model), _params(model), pad_id=0)
    peaks, found = roofline.chip(jax.devices()[0].device_kind), []
    for rows in scale.batches:
        prompts = list(_random(model, rows, scale.prompt))
        runs = [generate(engine, prompts, scale.new)[1] for _ in range(scale.repeats + 1)][1:]
        steps = [seconds / (scale.new - 1) for seconds in runs]
        least = _bytes_of_step(model, rows, scale.prompt + scale.new)
        rates = {"the published bandwidth": peaks.memory if peaks else 0.0,
                 "the measured one": bench.known.get("copy_rate", 0.0)}
        against = [f"{percent(least / rate / median(steps))} % of {name}"
                   for name, rate in rates.items() if rate]
        found.append(Measure(f"step, {rows} rows", [s / MILLI for s in steps], "ms",
                             ", ".join(against)))
        found.append(Measure("tokens", [rows / s for s in steps], "a second"))
    return found, {}


def _bytes_of_step(model: ModelConfig, rows: int, places: int) -> float:
    """Bytes that the step of one token reads at least: all parameters, and of each row its cache
    and the keys and values of its memory."""
    width = jnp.dtype(model.dtype).itemsize
    size = sum(leaf.size for leaf in jax.tree.leaves(_params(model)))
    cache = 2 * model.num_layers * places * model.num_kv_heads * model.head_dim
    memory = 2 * model.memory.num_layers * model.memory.num_slots * model.embed_dim
    return width * (size + rows * (cache + memory))
