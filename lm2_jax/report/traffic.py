"""FLOPs of the matrix products and bytes of memory traffic of a compiled program.

XLA's own `cost_analysis` counts the body of a loop once; here it counts as often as it runs.
"""

import math
import re
from typing import NamedTuple

from lm2_jax.report import hlo as texts
from lm2_jax.report.hlo import Computation, Instruction

# They move no bytes, or their bytes are counted where they are computed or the copy is started.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota",
        "partition-id", "replica-id", "optimization-barrier", "while", "conditional", "call"}
SCHEDULED = {"while", "conditional", "call"}  # they run the instructions of other computations
PARTS = {"dynamic-slice", "slice", "gather"}  # they read only what they return
STARTED = {"copy-start", "slice-start", "collective-permute-start", "all-gather-start",
           "all-reduce-start"}
NO_TRAFFIC = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')

_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\](?:\{[^{}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)\}$")  # a memory space other than the device's main memory


class Traffic(NamedTuple):
    """What one device does in a run of a program.

    Attributes:
      flops: of its matrix products and convolutions; those of custom kernels are not known.
      bytes: that its instructions read from and write to its main memory (HBM), each operand and
        result once. What a fusion keeps to itself and what stays in on-chip memory do not count.
    """

    flops: int
    bytes: int


def of_program(hlo: str) -> Traffic:
    """Counts the FLOPs and bytes of a compiled program from its HLO text."""
    lines = texts.computations(hlo)
    times = texts.runs(lines)
    parsed = {name: texts.parse(part) for name, part in lines.items()}
    flops = sum(times[name] * sum(map(_flops, part.values(), [part] * len(part)))
                for name, part in parsed.items())
    moved = sum(times[name] * sum(_moved(one, parsed[name], parsed)
                                  for one in parsed[name].values())
                for name in _scheduled(parsed))
    return Traffic(flops, moved)


def _scheduled(parsed: dict[str, Computation]) -> list[str]:
    """The computations whose instructions run one by one: not those inside of fusions."""
    found, left = [], ["ENTRY"]
    while left:
        name = left.pop()
        if name in found or name not in parsed:
            continue
        found.append(name)
        left += [other for one in parsed[name].values() if one.opcode in SCHEDULED
                 for other in texts.called(one.line)]
    return found


def _in_memory(result: str) -> list[int]:
    """The size of each array of a type; 0 of those in on-chip memory."""
    return [0 if _ELSEWHERE.search(m[0]) else texts.shape_bytes(m[1], m[2])
            for m in _ARRAY.finditer(result)]


def _size(result: str) -> int:
    return sum(_in_memory(result))


def _moved(one: Instruction, part: Computation, parsed: dict[str, Computation]) -> int:
    """Bytes that a scheduled instruction reads and writes."""
    if one.opcode in FREE or one.opcode.endswith("-done") or any(
            target in one.line for target in NO_TRAFFIC):
        return 0
    operands = [_size(part[name].result) if name in part else 0 for name in one.operands]
    if one.opcode in ("fusion", "fusion-start"):
        inner = parsed[texts.called(one.line)[0]]
        read = _read(inner, parsed)
        results = _in_memory(one.result)
        if one.opcode == "fusion-start":  # ((operands), results, ...)
            results = results[len(operands):]
        return sum(min(size, read.get(i, size)) for i, size in enumerate(operands)) + sum(
            min(size, written) for size, written in zip(
                results, _written(inner, parsed), strict=False))
    if one.opcode == "slice-start":  # ((operands), result, ...)
        return _sizes(one.result)[1]
    if one.opcode in STARTED:  # (operand, result, ...) or (result, operand, ...)
        return sum(_in_memory(one.result)[:2])
    if one.opcode in PARTS:
        return 2 * _size(one.result) + sum(operands[1:])
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    return sum(operands) + _size(one.result)


def _sizes(result: str) -> list[int]:
    """The size of each array of a type, wherever it is."""
    return [texts.shape_bytes(m[1], m[2]) for m in _ARRAY.finditer(result)]


def _read(inner: Computation, parsed: dict[str, Computation]) -> dict[int, int]:
    """Bytes that a fusion reads of those of its operands of which it does not read everything."""
    found = {}
    for one in inner.values():
        if one.opcode == "parameter":
            read = _used(one.name, inner, parsed)
            if read is not None:
                found[_number(one)] = read
    return found


def _number(parameter: Instruction) -> int:
    return int(parameter.arguments)


def _used(name: str, inner: Computation, parsed: dict[str, Computation]) -> int | None:
    """Bytes that the users of a value inside a fusion read of it; None = all of them."""
    total = 0
    for user in inner.values():
        if name not in user.operands:
            continue
        at = user.operands.index(name)
        read: int | None
        if user.opcode in PARTS and at == 0:
            read = sum(_sizes(user.result))
        elif user.opcode == "dynamic-update-slice" and at == 0 or user.opcode == "tuple":
            read = 0
        elif user.opcode == "bitcast":
            read = _used(user.name, inner, parsed)
        elif user.opcode == "fusion":
            called = parsed[texts.called(user.line)[0]]
            parameter = next(one for one in called.values() if one.opcode == "parameter"
                             and _number(one) == at)
            read = _used(parameter.name, called, parsed)
        else:
            read = None
        if read is None:
            return None
        total += read
    return total


def _written(inner: Computation, parsed: dict[str, Computation]) -> list[int]:
    """Bytes that a fusion writes of each of its results."""
    root = next(one for one in inner.values() if one.is_root)
    parts = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return [_written_by(one, inner, parsed) for one in parts]


def _written_by(one: Instruction, inner: Computation, parsed: dict[str, Computation]) -> int:
    if one.opcode == "parameter":  # an operand that is passed through
        return 0
    if one.opcode == "dynamic-update-slice":
        return sum(_sizes(inner[one.operands[1]].result))
    if one.opcode == "bitcast" and one.operands[0] in inner:
        return _written_by(inner[one.operands[0]], inner, parsed)
    if one.opcode == "fusion":
        return sum(_written(parsed[texts.called(one.line)[0]], parsed))
    return sum(_sizes(one.result))


def _flops(one: Instruction, part: Computation) -> int:
    """FLOPs of a matrix product or convolution; 0 for anything else."""
    if one.opcode not in ("dot", "convolution"):
        return 0
    out = _dims(one.result)
    left, right = (_dims(part[name].result) for name in one.operands[:2])
    if one.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.line)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * math.prod(out) * math.prod(left[axis] for axis in axes)
    return _convolution_flops(one.line, left, right, out)


def _dims(result: str) -> list[int]:
    (_, dims), *_ = texts.shapes(result)
    return [int(n) for n in dims.split(",") if n]


def _convolution_flops(line: str, left: list[int], right: list[int], out: list[int]) -> int:
    """Products of which one factor is padding, or a hole of a dilated operand, do not count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line)
    assert labels is not None
    of_left, of_right, of_out = (dict(zip(letters, sizes, strict=True)) for letters, sizes in
                                 zip(labels.groups(), (left, right, out), strict=True))
    counts = {name: int(found[1]) if (found := re.search(rf"{name}=(\d+)", line)) else 1
              for name in ("feature_group_count", "batch_group_count")}
    total = 2 * of_left["f"] // counts["feature_group_count"] * of_right["o"] * (
        of_left["b"] // counts["batch_group_count"])
    window = re.search(r"window=\{([^}]*)\}", line)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    for axis in range(len(left) - 2):
        def field(name: str, default: str, axis: int = axis) -> str:
            return fields[name].split("x")[axis] if name in fields else default

        low = int(field("pad", "0_0").split("_")[0])
        stride, hole = int(field("stride", "1")), int(field("lhs_dilate", "1"))
        step, size = int(field("rhs_dilate", "1")), of_left[str(axis)]
        places = ((o * stride - low + k * step) for o in range(of_out[str(axis)])
                  for k in range(of_right[str(axis)]))
        total *= sum(place % hole == 0 and 0 <= place < (size - 1) * hole + 1 for place in places)
    return total
