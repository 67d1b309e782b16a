"""The collectives of a compiled program, read from its HLO text."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from lm2_jax.report import groups
from lm2_jax.report import hlo as texts

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")

_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_NOT_MODEL_PARTS = re.compile(
    r"|jit|jvp|_apply|step|transpose|while|body|closed_call|checkpoint|cond|"
    r"rematted_computation|LanguageModel.*|(memory_)?blocks(\.run)?")


class Collective(NamedTuple):
    """One instruction of a program that exchanges data between devices.

    Attributes:
      kind: the HLO name, as "all-gather".
      shapes: (dtype, dimensions) of the arrays of its result, on each device.
      runs: number of executions in a run of the program.
      group: indices, in the order of the mesh, of devices that exchange data with one another;
        empty if the text does not say. The other groups are alike.
      origin: the part of the model that it belongs to.
      line: of the program.
    """

    kind: str
    shapes: list[tuple[str, str]]
    runs: int
    group: tuple[int, ...]
    origin: str
    line: str = ""

    @property
    def bytes(self) -> int:
        """The size of its result on each device."""
        return sum(texts.shape_bytes(*shape) for shape in self.shapes)

    @property
    def received(self) -> float:
        """The bytes that a device has to receive in one execution from others, at least."""
        others, n = max(len(self.group) - 1, 0), max(len(self.group), 1)
        share = {"all-reduce": 2 * others / n, "reduce-scatter": others,
                 "collective-permute": 1, "collective-broadcast": 1}
        return self.bytes * share.get(self.kind, others / n)


class Collectives(NamedTuple):
    """All collectives of one kind and size.

    Attributes:
      kind: the HLO name, as "all-gather".
      bytes: size of the result of one of them, on each device.
      in_program: number of instructions in the program.
      per_run: number of executions in a run of the program; an instruction in a loop is executed
        once per iteration.
    """

    kind: str
    bytes: int
    in_program: int
    per_run: int


def find(hlo: str) -> list[Collectives]:
    """The collectives of a compiled program, those with the most bytes per run first.

    A collective that the compiler has split over several fusions, which share its channel, counts
    once. A loop whose trip count is unknown counts as one iteration.
    """
    found: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for one in each(hlo):
        entry = found[one.kind, one.bytes]
        entry[0] += 1
        entry[1] += one.runs
    rows = [Collectives(kind, size, *counts) for (kind, size), counts in found.items()]
    return sorted(rows, key=lambda row: (-row.bytes * row.per_run, row))


def describe(hlo: str) -> list[str]:
    """A line for each kind, shape and origin, with the number of executions per run."""
    found: dict[str, int] = defaultdict(int)
    for one in each(hlo):
        alike = Counter(f"{dtype}[{dims}]" for dtype, dims in one.shapes)
        what = " ".join(f"{n} x {shape}" if n > 1 else shape for shape, n in sorted(alike.items()))
        found[f"{one.origin}: {one.kind} {what}"] += one.runs
    return [f"{line}, {runs} a run" for line, runs in sorted(found.items())]


def by_kind(rows: list[Collectives]) -> dict[str, dict[str, int]]:
    """{"all-gather": {"in_program": .., "per_run": .., "bytes_per_run": ..}, ...}"""
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        total = totals.setdefault(row.kind, dict(in_program=0, per_run=0, bytes_per_run=0))
        total["in_program"] += row.in_program
        total["per_run"] += row.per_run
        total["bytes_per_run"] += row.per_run * row.bytes
    return dict(sorted(totals.items()))


def each(hlo: str, instruction: re.Pattern = _COLLECTIVE) -> Iterator[Collective]:
    """Yields the collectives of a compiled program one by one; see `find`.

    Args:
      instruction: matches the name of each, as group 1, and what is appended to it, as group 2.
    """
    computations = texts.computations(hlo)
    runs, seen = texts.runs(computations), set()
    for name, lines in computations.items():
        for line in lines:
            match = instruction.search(line)
            if match is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            shapes = texts.shapes(line[:match.start()].split(" = ", 1)[1])
            # Those of a shard_map have one channel in common.
            key = (channel[1], match[1], tuple(shapes)) if channel else (name, line)
            if key not in seen:
                seen.add(key)
                if match[2] and match[1] != "all-reduce":
                    shapes = _results(shapes, match[1])
                kind = match[1]
                if kind == "all-reduce" and "all-reduce-scatter" in name:
                    # A fusion of the TPU compiler, of which each device keeps its own part.
                    kind = "reduce-scatter"
                group = next(iter(groups.of(line)), ())
                parts = len(group) if kind != match[1] and group else 1
                yield Collective(kind, [_part(shape, parts) for shape in shapes], runs[name],
                                 group, _origin(line), line)


def _part(shape: tuple[str, str], parts: int) -> tuple[str, str]:
    """The shape of one of `parts` equal parts of an array, as a single axis if there are several.
    """
    if parts == 1:
        return shape
    dtype, dims = shape
    return dtype, str(math.prod(int(n) for n in dims.split(",") if n) // parts)


def _results(shapes: list[tuple[str, str]], kind: str) -> list[tuple[str, str]]:
    """The result shapes of a "-start" operation, whose tuple lists the operands first."""
    return shapes[1:2] if kind == "collective-permute" else shapes[len(shapes) // 2:]


def _origin(line: str) -> str:
    """The part of the model that an instruction belongs to, from its op_name, with "backward" for
    the backward pass. A fused instruction can name several parts."""
    found = re.search(r'op_name="([^"]*)"', line)
    path = found[1] if found else ""
    parts = [part for part in re.split(r"[/:()]+", path) if not _NOT_MODEL_PARTS.fullmatch(part)]
    backward = "backward " if "transpose(" in path else ""
    more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
    return backward + ("/".join(parts[:6]) or "step") + more
