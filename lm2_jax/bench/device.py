"""`lm2 bench device`: how near to one accelerator's limits a large model trains, reads and decodes.

Pieces are measured one after the other, in the order of `pieces.PIECES`, until the time is over.
Pieces that share a model share a process; each process ends before the next begins, so that the
device's memory is free again. The results of a piece are written when it ends.
"""

import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lm2_jax.bench import pieces
from lm2_jax.bench.measures import DONE, FAILED, NOT_RUN, Result
from lm2_jax.bench.pieces import Piece
from lm2_jax.report import records
from lm2_jax.report.table import Table
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import scratch

MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # share of a GPU's memory that JAX takes at once
START = 15.0  # seconds until a process is ready to measure
PAUSE = 0.2  # seconds between two reads of the results of a process


def run(path: str, overrides: Mapping[str, str], scale: str, minutes: float, out: str | Path,
        chosen: Sequence[str] = (), console: Console | None = None) -> list[Result]:
    """Measures what fits into the time; prints and writes device.json and device.md.

    Args:
      path: or name of the config of the model with a memory; its backbone is measured beside it.
      overrides: of the config, as `files.load_config` takes them.
      scale: "full" or "tiny", a key of `pieces.SCALES`.
      minutes: of wall time for everything. A piece whose estimated time does not fit into what is
        left is not run, and a process that takes longer than that is ended.
      chosen: names of pieces; empty for all.

    Raises:
      UserError: the config or a name cannot be used.
    """
    console, out = console or Console(), paths.of(out)
    end = time.monotonic() + 60 * minutes
    results: list[Result] = []
    facts: dict[str, str] = {}
    known: dict[str, float] = {}
    work = pieces.plan(path, overrides, scale, chosen)
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(MEMORY, "0.92")  # of the processes that measure
    for group in pieces.groups(work.pieces):
        for result in _measured(work, group, end, scratch(out) / "process.jsonl", facts, known):
            results.append(result)
            known.update(result.values)
            console.print(line(result))
            write(out, work, minutes, facts, results)
    written = write(out, work, minutes, facts, results)
    console.print(table(results).terminal(heading(work, minutes, facts)))
    for file in written:
        console.print(str(file))
    return results


def _measured(work: pieces.Work, group: Sequence[Piece], end: float, log: Path,
              facts: dict[str, str], known: Mapping[str, float]) -> Iterator[Result]:
    """Yields the results of a group, which is measured in a process of its own."""
    seconds = end - time.monotonic() - (START if work.scale == "full" else 0)
    if not any(piece.seconds(work.scale) <= seconds for piece in group):
        yield from (Result(piece.name, NOT_RUN, reason=_too_long(piece, work.scale, seconds))
                    for piece in group)
        return
    log.write_text("", "utf-8")
    process = multiprocessing.get_context("spawn").Process(
        target=pieces.measure_group, args=(work, [piece.name for piece in group], end, str(log),
                                           dict(known)))
    process.start()
    seen: list[str] = []
    while process.is_alive() and time.monotonic() < end:
        process.join(PAUSE)
        yield from _new(log, seen, facts)
    ended = process.is_alive()
    if ended:
        process.kill()
        process.join()
    found = list(_new(log, seen, facts))
    yield from found
    names = {json.loads(text).get("name") for text in seen}
    reason = ("the time was over" if ended else f"the process ended with status {process.exitcode}")
    yield from (Result(piece.name, NOT_RUN if ended else FAILED, reason=reason)
                for piece in group if piece.name not in names)


def _too_long(piece: Piece, scale: str, seconds: float) -> str:
    return (f"it takes about {piece.seconds(scale):.0f} s, and {max(seconds, 0):.0f} s were left")


def _new(log: Path, seen: list[str], facts: dict[str, str]) -> Iterator[Result]:
    """Yields the results that a process has written since the last call; adds lines to `seen`."""
    complete = log.read_text("utf-8").rpartition("\n")[0].splitlines()
    for text in complete[len(seen):]:
        seen.append(text)
        values = json.loads(text)
        if "facts" in values:
            facts.update(values["facts"])
        else:
            yield Result.from_dict(values)


def write(out: Path, work: pieces.Work, minutes: float, facts: Mapping[str, str],
          results: Sequence[Result]) -> list[Path]:
    """Writes device.json and device.md; returns their paths."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    everything = {**facts, "versions": versions, "config": work.path,
                  "overrides": dict(work.overrides), "scale": work.scale, "minutes": minutes,
                  "pieces": [dataclasses.asdict(result) for result in results]}
    return records.write(out, "device", everything, heading(work, minutes, facts), table(results))


def heading(work: pieces.Work, minutes: float, facts: Mapping[str, str]) -> str:
    """One line with the device, the config and the time."""
    return (f"{work.path} ({work.scale}) on one {facts.get('device', 'device')}, jax "
            f"{importlib.metadata.version('jax')}, {minutes:g} minutes, {facts.get('date', '')}")


def line(result: Result) -> str:
    """The status of a piece in one line, for the terminal."""
    if result.status == DONE:
        return f"{result.name}: measured in {result.seconds:.0f} s"
    return f"{result.name}: {result.status}, {result.reason}"


def table(results: Sequence[Result]) -> Table:
    """A section for each piece; times and rates are medians, with the lowest and the highest."""
    sections = []
    for result in results:
        rows = [[result.name, one.what, one.text, one.spread, one.against]
                for one in result.measures]
        if result.status != DONE:
            rows.append([result.name, result.status, "", "", result.reason])
        sections.append(rows)
    return Table(["piece", "what", "value", "lowest to highest", "against"], sections,
                 text_columns=2, note="Values are medians, with the spread of the repetitions. "
                 "MFU is the FLOPs that the model needs, without recomputation and with attention "
                 "halved for causality, over those of the device: the published peak, and the "
                 "rate of large products of matrices as measured here.")
