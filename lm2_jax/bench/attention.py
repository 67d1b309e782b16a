"""`lm2 bench attention`: time and memory of each attention kernel over the length of a segment."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp

from lm2_jax.config.model import ATTENTION_IMPLEMENTATIONS
from lm2_jax.errors import UserError
from lm2_jax.model import kernels
from lm2_jax.model.kernels import Mask
from lm2_jax.report import records
from lm2_jax.report.compilation import size
from lm2_jax.report.table import Table
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console

USES = {"attention": True, "write": False}  # whether the mask is causal


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurement of one kernel.

    Attributes:
      use: a key of USES: the causal attention of a segment, or the write of a memory, which
        returns the log-sum-exp too.
      length: number of tokens, and of slots.
      implementation: as in `model.attention_implementation`.
      forward: seconds of each repetition.
      both: seconds of the forward and the backward pass together, of each repetition.
      temporaries: bytes of both passes, by XLA's analysis.
    """

    use: str
    length: int
    implementation: str
    forward: Sequence[float]
    both: Sequence[float]
    temporaries: int


def run(lengths: Sequence[int], implementations: Sequence[str], heads: int, head_dim: int,
        rows: int, dtype: str, repeats: int, out: str | Path, console: Console | None = None
        ) -> list[Row]:
    """Measures the kernels on one device; prints and writes the table.

    Their repetitions alternate, so that another load on the machine affects all kernels alike.

    Args:
      lengths: numbers of tokens, and of slots.
      implementations: as in `model.attention_implementation`.
      rows: of the batch.
      dtype: of queries, keys and values.
      repeats: measurements of each kernel.
      out: folder of attention.json and attention.md.

    Raises:
      UserError: if an argument is not usable.
    """
    console, out = console or Console(), paths.of(out)
    unknown = set(implementations) - set(ATTENTION_IMPLEMENTATIONS)
    if unknown or not lengths or min(*lengths, heads, head_dim, rows, repeats) < 1:
        raise UserError(f"--implementations must be of {', '.join(ATTENTION_IMPLEMENTATIONS)}, and "
                        "every number 1 at least")
    found = []
    for use in USES:
        for length in lengths:
            found += _measured(use, length, implementations, (rows, length, heads, head_dim), dtype,
                               repeats)
    device = jax.devices()[0].device_kind
    heading = (f"{rows} rows, {heads} heads of {head_dim}, {dtype}, on one {device}; jax "
               f"{jax.__version__}; {records.today()}")
    console.print(table(found).terminal(heading))
    facts = {"heading": heading, "rows": [dataclasses.asdict(row) for row in found]}
    for path in records.write(out, "attention", facts, heading, table(found)):
        console.print(str(path))
    return found


def _measured(use: str, length: int, implementations: Sequence[str], shape: tuple[int, ...],
              dtype: str, repeats: int) -> list[Row]:
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, shape, jnp.float32).astype(dtype) for key in keys]
    programs = {name: _programs(use, name, arrays) for name in implementations}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in implementations}
    for number in range(repeats + 1):
        for name, compiled in programs.items():
            for program, seconds in zip(compiled, times[name], strict=True):
                begun = time.perf_counter()
                jax.block_until_ready(program(*arrays))
                if number:  # the first is to warm up
                    seconds.append(time.perf_counter() - begun)
    return [Row(use, length, name, forward, both, _temporaries(programs[name][1]))
            for name, (forward, both) in times.items()]


def _temporaries(program: jax.stages.Compiled) -> int:
    analysis = program.memory_analysis()
    assert analysis is not None  # XLA has it on every platform
    return analysis.temp_size_in_bytes


def _programs(use: str, implementation: str, arrays: Sequence[jax.Array]
              ) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """The forward pass, and both passes, compiled."""
    call = functools.partial(kernels.attention, mask=Mask(causal=USES[use]),
                             implementation=implementation)

    def total(q, k, v):
        if use == "attention":
            return jnp.sum(call(q, k, v).astype(jnp.float32))
        out, log_sum = call(q, k, v, log_sum_exp=True)
        return jnp.sum(out.astype(jnp.float32)) + jnp.sum(log_sum)

    return (jax.jit(total).lower(*arrays).compile(),
            jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*arrays).compile())


def table(rows: Sequence[Row]) -> Table:
    """A section for each use."""
    def cells(row: Row) -> list[str]:
        first = next(one for one in rows if (one.use, one.length) == (row.use, row.length))
        times = [f"{1e3 * of(seconds):,.1f}" for seconds in (row.forward, row.both)
                 for of in (min, median, max)]
        return [row.use, row.implementation, f"{row.length:,}", *times,
                f"{min(row.both) / min(first.both):.2f}", size(row.temporaries)]

    return Table(["use", "kernel", "length", "forward ms\nmin", "median", "max", "both ms\nmin",
                  "median", "max", "ratio", "temporaries"],
                 [[cells(row) for row in rows if row.use == use] for use in USES], text_columns=2,
                 note="A write has as many slots as tokens, and its log-sum-exp. ratio: least time "
                      "of both passes, over that of the first kernel of the same length.")
