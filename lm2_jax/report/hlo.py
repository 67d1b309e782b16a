"""The text of a compiled program (HLO): its computations, how often each runs, its arrays."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

BITS = {"pred": 8, "bf16": 16, "token": 0}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|branch_computations|called_computations)="
                     r"(?:\{([^}]*)\}|%?([\w.\-]+))")
_SHAPE = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")
_HEAD = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"^ ?([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")


class Instruction(NamedTuple):
    """One line of a computation, `name = result opcode(arguments), ...`.

    Attributes:
      result: its type, as "bf16[16,128]{1,0}", or a tuple of types in parentheses.
    """

    name: str
    result: str
    opcode: str
    arguments: str
    line: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of the instructions whose results it takes."""
        return _OPERAND.findall(self.arguments)


Computation = dict[str, Instruction]


def computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; the entry computation is named "ENTRY"."""
    found, lines = {}, []
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            lines = found["ENTRY" if line.startswith("ENTRY") else header[1]] = []
        else:
            lines.append(line)
    return found


def called(line: str) -> list[str]:
    """The names of the computations that an instruction calls."""
    return [name.strip(" %") for m in _CALLED.finditer(line) for name in (m[1] or m[2]).split(",")]


def runs(found: dict[str, list[str]]) -> dict[str, int]:
    """The number of executions of each computation in a run of the program.

    A loop whose trip count is unknown counts as one iteration.
    """
    callers: dict[str, dict[str, int]] = defaultdict(dict)
    for name, lines in found.items():
        for line in lines:
            times = _trips(line, found) if " while(" in line else 1
            for other in called(line):
                callers[other][name] = callers[other].get(name, 0) + times
    counted = {"ENTRY": 1}

    def count(name: str) -> int:
        if name not in counted:
            counted[name] = sum(times * count(caller) for caller, times in callers[name].items())
        return counted[name]

    return {name: count(name) for name in found}


def num_instructions(hlo: str) -> int:
    """The number of instructions in the program, those of all its computations together.

    Calls of the CPU compiler that only share out an operation among the threads of this machine do
    not count.
    """
    return sum(" = " in line and " call(" not in line
               for name, lines in computations(hlo).items() if not name.startswith("parallel_")
               for line in lines)


def shapes(text: str) -> list[tuple[str, str]]:
    """(dtype, dimensions) of the arrays that a piece of text names, as ("bf16", "16,128")."""
    return _SHAPE.findall(text)


def shape_bytes(dtype: str, dims: str) -> int:
    """The size of an array of these dimensions in bytes."""
    bits = BITS[dtype] if dtype in BITS else int(re.sub(r"\D", "", dtype) or 8)
    return bits * math.prod(int(n) for n in dims.split(",") if n) // 8


def parse(lines: Iterable[str]) -> Computation:
    """The instructions of a computation by their names."""
    found = {}
    for line in lines:
        head = _HEAD.match(line)
        if not head:
            continue
        result, rest = _split_type(line[head.end():])
        opcode = _OPCODE.match(rest)
        if opcode:
            found[head[2]] = Instruction(head[2], result, opcode[1],
                                         _inside(rest[opcode.end() - 1:]), line, bool(head[1]))
    return found


def _split_type(text: str) -> tuple[str, str]:
    """The type that a text begins with, and the rest."""
    if text.startswith("("):
        inside = _inside(text)
        return text[:len(inside) + 2], text[len(inside) + 2:]
    kind, _, rest = text.partition(" ")
    return kind, " " + rest


def _inside(text: str) -> str:
    """What stands between the parenthesis that a text begins with and its partner."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[1:i]
    return text[1:]


def _trips(line: str, found: dict[str, list[str]]) -> int:
    """The trip count of a while loop: the compiler's annotation, else the bound in its condition
    over what its body adds to the counter, else 1."""
    known = re.search(r'known_trip_count[^\d]*(\d+)', line)
    if known:
        return int(known[1])
    condition, body = (parse(found.get(named[1], [])) if named else {} for named in (
        re.search(rf"{what}=%?([\w.\-]+)", line) for what in ("condition", "body")))
    for one in condition.values():
        if one.is_root and one.opcode == "compare" and "direction=LT" in one.line:
            bound = _constant(condition.get(one.operands[1]))
            counter = condition.get(one.operands[0])
            if bound is not None and counter is not None:
                return -(-bound // _step(body, counter))
    return 1


def _step(body: Computation, counter: Instruction) -> int:
    """What the body of a loop adds to its counter, 1 if that is not found."""
    at = re.search(r"index=(\d+)", counter.line)
    root = next((one for one in body.values() if one.is_root), None)
    if at is None or root is None or int(at[1]) >= len(root.operands):
        return 1
    new = body.get(root.operands[int(at[1])])
    while new is not None and new.opcode == "copy":
        new = body.get(new.operands[0])
    if new is None or new.opcode != "add":
        return 1
    added = [step for name in new.operands if (step := _constant(body.get(name)))]
    return added[0] if added else 1


def _constant(one: Instruction | None) -> int | None:
    if one is None or one.opcode != "constant" or not one.arguments.isdecimal():
        return None
    return int(one.arguments)
