"""`lm2 bench data`: how fast batches are made on one core, without a model."""

import dataclasses
import itertools
import time
from collections.abc import Iterator

from rich import box
from rich.table import Table

from lm2_jax.config import Config
from lm2_jax.data.babilong import corpus
from lm2_jax.data.batches import iterate
from lm2_jax.data.sources import make_source
from lm2_jax.errors import UserError
from lm2_jax.runtime.console import Console
from lm2_jax.types import Batch

CONTEXT = 4096  # tokens of a row, rounded up to whole segments


@dataclasses.dataclass(frozen=True)
class Rate:
    """Batches made in `seconds` of wall time, or `cpu_seconds` over all threads of the process."""

    samples_of: str
    made_by: str
    batches: int
    samples: int
    tokens: int
    seconds: float
    cpu_seconds: float


def run(config: Config, seconds: float, console: Console | None = None) -> list[Rate]:
    """Measures for about `seconds` after the background is tokenized, and prints a table."""
    console = console or Console()
    data, T = config.data, config.model.segment_length
    segments = -(-CONTEXT // T)
    if data.source == "corpus":
        raise UserError("data.source is corpus; lm2 bench data measures samples of data.tasks")
    drawn_from = corpus.training(config, corpus.make_tokenizer(data, config.seed))
    rates = []
    a_story = dataclasses.replace(data, vary_length=False, dense=False, deferred=False,
                                  points_per_segment=0.0)
    for kind, made_of in (("as configured", data), ("a bAbI story a row", a_story)):
        made_of = dataclasses.replace(made_of, curriculum=((0, segments),))
        source = make_source(made_of, drawn_from, segment_length=T, seed=config.seed,
                             batch_size=config.train.batch_size, num_steps=2**31)
        for way, batches in (("source", map(source.__getitem__, itertools.count())),
                             ("iterate", iterate(source, 0))):
            rates.append(_measure(kind, way, batches, seconds / 4))
    console.print(f"{', '.join(data.tasks)} of {data.babi or 'the simulator'}; background: "
                  f"{data.background}, {len(drawn_from.prose.tokens):,} tokens; batches of "
                  f"{config.train.batch_size} rows of {segments} segments of {T} tokens")
    console.print(_table(rates))
    return rates


def _measure(kind: str, way: str, batches: Iterator[Batch], seconds: float) -> Rate:
    next(batches)  # fills caches, starts threads
    made = samples = tokens = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while not made or time.perf_counter() - wall < seconds:
        batch = next(batches)
        made += 1
        samples += int(batch.reset_BS.sum())
        tokens += batch.tokens_BL.size
    return Rate(kind, way, made, samples, tokens, time.perf_counter() - wall,
                time.process_time() - cpu)


def _table(rates: list[Rate]) -> Table:
    table = Table(title="Making batches on one core", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False)
    for name in ("samples", "made by"):
        table.add_column(name)
    for name in ("tokens/s", "tokens/\ncore second", "samples/s", "ms a batch"):
        table.add_column(name, justify="right")
    for rate in rates:
        table.add_row(rate.samples_of, rate.made_by, f"{rate.tokens / rate.seconds:,.0f}",
                      f"{rate.tokens / rate.cpu_seconds:,.0f}",
                      f"{rate.samples / rate.seconds:,.0f}",
                      f"{1e3 * rate.seconds / rate.batches:.1f}")
    return table
