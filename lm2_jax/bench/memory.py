"""`lm2 bench memory`: time and FLOPs of the memory of one block, beside the authors' module."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm2_jax.bench import torch_process
from lm2_jax.bench.timing import timed
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.errors import UserError
from lm2_jax.model.memory.lm2 import LM2Memory, identity_bank
from lm2_jax.report import flops, records
from lm2_jax.report.table import Table
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console

OURS, THEIRS = "lm2_jax", "authors' module"


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurement of one module at one size.

    Attributes:
      module: OURS or THEIRS.
      size: tokens, slots and channels.
      flops: of the matrix products of a forward and a backward pass.
      seconds: that both passes took, of each repetition.
    """

    module: str
    size: int
    flops: int
    seconds: Sequence[float]


class Segment(nn.Module):
    """What one block's memory does with a segment: every token reads, then all are written."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, bank_BMD):
        memory, valid_BT = LM2Memory(self.config), jnp.ones(x_BTD.shape[:2], bool)
        read_BTD, state = memory.mix(x_BTD, bank_BMD, valid_BT)
        return x_BTD + read_BTD, memory.write(x_BTD, state, valid_BT)


def run(sizes: Sequence[int], heads: int, rows: int, torch_python: str, repeats: int,
        out: str | Path, console: Console | None = None) -> list[Row]:
    """Measures LM2's memory of the paper in float32; prints and writes the table.

    Args:
      sizes: each is the number of tokens, of slots and of channels.
      heads: of LM2's memory.
      rows: of the batch.
      torch_python: path of a Python that has torch: also measure there what the authors' own module
        computes; "" = not.
      repeats: measurements of each module; they alternate.
      out: folder of memory.json and memory.md.

    Raises:
      UserError: if an argument cannot be used or the other Python fails.
    """
    console, found = console or Console(), []
    if not sizes or min(*sizes, heads, rows, repeats) < 1:
        raise UserError("--sizes, --heads, --rows and --repeats must be 1 at least")
    if bad := [size for size in sizes if size % heads or size // heads % 2]:
        raise UserError(f"--sizes has {bad[0]}; it must be an even multiple of --heads={heads}")
    version = ""
    for size in sizes:
        with contextlib.ExitStack() as running:
            traced, arguments = _passes(size, heads, rows)
            ours = functools.partial(_run, traced.lower().compile(), arguments)
            measured: dict[str, tuple[int, Callable[[], float]]] = {
                OURS: (flops.of_traced(traced), timed(ours))}
            if torch_python:
                facts, ask = running.enter_context(torch_process.memory(torch_python, size, rows))
                measured[THEIRS] = facts["flops"], functools.partial(ask, None)
                version = f", torch {facts['torch']}"
            times = [[measure() for _, measure in measured.values()]
                     for _ in range(repeats + 1)][1:]
        for (name, (needed, _)), seconds in zip(measured.items(), zip(*times, strict=True),
                                                strict=True):
            found.append(Row(name, size, needed, seconds))
    heading = (f"{rows} rows, float32, on one {jax.devices()[0].device_kind}, "
               f"{torch_process.cores()} cores; jax {jax.__version__}{version}; "
               f"{datetime.now(UTC).strftime('%Y-%m-%d')}")
    console.print(table(found).terminal(heading))
    facts = {"heading": heading, "rows": [dataclasses.asdict(row) for row in found]}
    for path in records.write(paths.of(out), "memory", facts, heading, table(found)):
        console.print(str(path))
    return found


def _passes(size: int, heads: int, rows: int) -> tuple[jax.stages.Traced, tuple]:
    """Returns both passes as a traced program, and its arguments."""
    config = ModelConfig(vocab_size=8, embed_dim=size, num_heads=heads, num_kv_heads=heads,
                         num_layers=1, mlp_dim=size, segment_length=size, memory=MemoryConfig(
                             num_slots=size, num_layers=1, num_heads=heads, write="paper",
                             coupled_gates=False, gates_see_slot=False))
    module = Segment(config)
    x_BTD = jax.random.normal(jax.random.key(0), (rows, size, size))
    bank_BMD = jnp.broadcast_to(identity_bank(size, size), (rows, size, size))
    variables = nn.unbox(module.init(jax.random.key(1), x_BTD, bank_BMD))

    def total(variables, x_BTD, bank_BMD):
        return sum(jnp.sum(a) for a in jax.tree.leaves(module.apply(variables, x_BTD, bank_BMD)))

    arguments = variables, x_BTD, bank_BMD
    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*arguments), arguments


def _run(program: jax.stages.Compiled, arguments: tuple) -> None:
    jax.block_until_ready(program(*arguments))


def table(rows: Sequence[Row]) -> Table:
    """A row for each size and module."""
    def cells(row: Row) -> list[str]:
        first = next(one for one in rows if one.size == row.size)
        ratios = [a / b * first.flops / row.flops
                  for a, b in zip(row.seconds, first.seconds, strict=True)]
        return [row.module, f"{row.size:,}", f"{row.flops / 1e9:,.2f}",
                *(f"{1e3 * of(row.seconds):,.1f}" for of in (min, median, max)),
                f"{row.flops / median(row.seconds) / 1e9:,.1f}",
                f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"]

    return Table(["module", "tokens, slots,\nchannels", "GFLOP", "ms, least", "median", "most",
                  "GFLOP/s", "time per FLOP,\nratio (lowest-highest)"],
                 [[cells(row) for row in rows]],
                 note=f"A forward and a backward pass; FLOPs of matrix products. {THEIRS}: what "
                      "the module that the authors published computes, written anew; it needs as "
                      "many tokens as slots. The ratio is over lm2_jax.")
