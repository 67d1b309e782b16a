"""What the devices exchange in a compiled program: read from its HLO text."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")
BITS = {"pred": 8, "bf16": 16, "token": 0}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|branch_computations|called_computations)="
                     r"(?:\{([^}]*)\}|%?([\w.\-]+))")
_SHAPE = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")
_LESS = re.compile(r" compare\((?:\S+ )*?%?[\w.\-]+, (?:\S+ )*?%?([\w.\-]+)\), direction=LT")


class Exchange(NamedTuple):
    """The collectives of a kind and a size.

    Attributes:
      kind: as HLO names it.
      bytes: of the result of one, on each device.
      in_program: how many there are in the program.
      per_run: how often they run; those in loops as often as the loop does.
    """

    kind: str
    bytes: int
    in_program: int
    per_run: int


def exchanges(hlo: str) -> list[Exchange]:
    """All of a compiled program, the largest share of bytes a run first.

    A collective that the compiler has spread over several fusions counts once (they have its
    channel). A loop whose trip count cannot be read counts as one trip.
    """
    computations = _computations(hlo)
    runs = _runs(computations)
    found: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    seen = set()
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = channel[1] if channel else (name, line)
            if key in seen:
                continue
            seen.add(key)
            started = line[match.start():].startswith(f" {match[1]}-start")
            entry = found[match[1], _result_bytes(line[:match.start()], started, match[1])]
            entry[0] += 1
            entry[1] += runs.get(name, 0)
    rows = [Exchange(kind, size, *counts) for (kind, size), counts in found.items()]
    return sorted(rows, key=lambda row: (-row.bytes * row.per_run, row))


def by_kind(rows: list[Exchange]) -> dict[str, dict[str, int]]:
    """{"all-gather": {"in_program": .., "per_run": .., "bytes_per_run": ..}, ...}"""
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        total = totals.setdefault(row.kind, dict(in_program=0, per_run=0, bytes_per_run=0))
        total["in_program"] += row.in_program
        total["per_run"] += row.per_run
        total["bytes_per_run"] += row.per_run * row.bytes
    return dict(sorted(totals.items()))


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation; the entry is called "ENTRY"."""
    found, lines = {}, []
    for line in hlo.splitlines():
        begins = _COMPUTATION.match(line)
        if begins:
            lines = found["ENTRY" if line.startswith("ENTRY") else begins[1]] = []
        else:
            lines.append(line)
    return found


def _runs(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs."""
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
    """Of a while loop: as the compiler notes it, or the bound that its condition compares with."""
    known = re.search(r'known_trip_count[^\d]*(\d+)', line)
    if known:
        return int(known[1])
    condition = computations.get(re.search(r"condition=%?([\w.\-]+)", line)[1], [])
    bound = _LESS.search("\n".join(condition))
    for other in condition if bound else ():
        constant = re.search(rf"%?{re.escape(bound[1])} = s32\[\]\S* constant\((\d+)\)", other)
        if constant:
            return int(constant[1])
    return 1


def _result_bytes(text: str, started: bool, kind: str) -> int:
    """Bytes of "NAME = SHAPE"; where an operation only starts there, its operands stand first."""
    shapes = [_shape_bytes(dtype, dims) for dtype, dims in _SHAPE.findall(text.split(" = ", 1)[1])]
    if started and kind != "all-reduce" and len(shapes) > 1:
        return shapes[len(shapes) // 2] if len(shapes) % 2 == 0 and kind != "collective-permute" \
            else shapes[1]
    return sum(shapes)


def _shape_bytes(dtype: str, dims: str) -> int:
    bits = BITS.get(dtype) if dtype in BITS else int(re.sub(r"\D", "", dtype) or 8)
    return bits * math.prod(int(n) for n in dims.split(",") if n) // 8
