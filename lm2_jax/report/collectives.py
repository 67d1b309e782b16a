"""The collectives of a compiled program, read from its HLO text."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")
BITS = {"pred": 8, "bf16": 16, "token": 0}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|branch_computations|called_computations)="
                     r"(?:\{([^}]*)\}|%?([\w.\-]+))")
_SHAPE = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")
_NOT_MODEL_PARTS = re.compile(
    r"|jit|jvp|_apply|step|transpose|while|body|closed_call|checkpoint|cond|"
    r"rematted_computation|LanguageModel.*|(memory_)?blocks(\.run)?")
_LESS = re.compile(r" compare\((?:\S+ )*?%?[\w.\-]+, (?:\S+ )*?%?([\w.\-]+)\), direction=LT")


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


class Instruction(NamedTuple):
    """One collective.

    Attributes:
      kind: the HLO name, as "all-gather".
      shapes: dtype and dimensions of each result.
      runs: executions in a run of the program.
      origin: the part of the model.
      line: of the program.
    """

    kind: str
    shapes: list[tuple[str, str]]
    runs: int
    origin: str
    line: str

    @property
    def bytes(self) -> int:
        """Of the results on one device."""
        return sum(_shape_bytes(*shape) for shape in self.shapes)


def find(hlo: str) -> list[Collectives]:
    """The collectives of a compiled program, those with the most bytes per run first.

    A collective that the compiler has split over several fusions, which share its channel, counts
    once. A loop whose trip count is unknown counts as one iteration.
    """
    found: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for each in every(hlo):
        entry = found[each.kind, each.bytes]
        entry[0] += 1
        entry[1] += each.runs
    rows = [Collectives(kind, size, *counts) for (kind, size), counts in found.items()]
    return sorted(rows, key=lambda row: (-row.bytes * row.per_run, row))


def describe(hlo: str) -> list[str]:
    """A line for each kind, shape and origin, with the number of executions per run."""
    found: dict[str, int] = defaultdict(int)
    for each in every(hlo):
        alike = Counter(f"{dtype}[{dims}]" for dtype, dims in each.shapes)
        what = " ".join(f"{n} x {shape}" if n > 1 else shape for shape, n in sorted(alike.items()))
        found[f"{each.origin}: {each.kind} {what}"] += each.runs
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


def every(hlo: str, instruction: re.Pattern = _COLLECTIVE) -> Iterator[Instruction]:
    """Yields each collective of a compiled program.

    Args:
      instruction: matches the name of each, as group 1, and what is appended to it, as group 2.
    """
    computations = _computations(hlo)
    runs, seen = _runs(computations), set()
    for name, lines in computations.items():
        for line in lines:
            match = instruction.search(line)
            if match is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = channel[1] if channel else (name, line)
            if key not in seen:
                seen.add(key)
                shapes = _SHAPE.findall(line[:match.start()].split(" = ", 1)[1])
                if match[2] and match[1] != "all-reduce":
                    shapes = _results(shapes, match[1])
                yield Instruction(match[1], shapes, runs[name], _origin(line), line)


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


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; the entry computation is named "ENTRY"."""
    found, lines = {}, []
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            lines = found["ENTRY" if line.startswith("ENTRY") else header[1]] = []
        else:
            lines.append(line)
    return found


def _runs(computations: dict[str, list[str]]) -> dict[str, int]:
    """The number of executions of each computation in a run."""
    callers: dict[str, dict[str, int]] = defaultdict(dict)
    for name, lines in computations.items():
        for line in lines:
            called = [c.strip(" %") for m in _CALLED.finditer(line)
                      for c in (m[1] or m[2]).split(",")]
            times = _trips(line, computations) if " while(" in line else 1
            for other in called:
                callers[other][name] = callers[other].get(name, 0) + times
    runs = {"ENTRY": 1}

    def count(name: str) -> int:
        if name not in runs:
            runs[name] = sum(times * count(caller) for caller, times in callers[name].items())
        return runs[name]

    return {name: count(name) for name in computations}


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """The trip count of a while loop: the compiler's annotation, else the bound in its condition,
    else 1."""
    known = re.search(r'known_trip_count[^\d]*(\d+)', line)
    if known:
        return int(known[1])
    named = re.search(r"condition=%?([\w.\-]+)", line)
    condition = computations.get(named[1], []) if named else []
    bound = _LESS.search("\n".join(condition))
    for other in condition:
        constant = bound and re.search(
            rf"%?{re.escape(bound[1])} = s32\[\]\S* constant\((\d+)\)", other)
        if constant:
            return int(constant[1])
    return 1


def _shape_bytes(dtype: str, dims: str) -> int:
    bits = BITS[dtype] if dtype in BITS else int(re.sub(r"\D", "", dtype) or 8)
    return bits * math.prod(int(n) for n in dims.split(",") if n) // 8
