"""The collectives of a compiled program that cross the border of two slices."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm2_jax.report import collectives

_EXPLICIT = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))? \{([^}]*)\}")
_SUM = re.compile(r" add\(")
# The TPU compiler sends what crosses slices to the host, which exchanges it by the network.
_SENT = re.compile(r" (send)()\(")
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SENT_SUM = '_xla_megascale_reduce_operation="SUM"'


@dataclass(frozen=True)
class Crossing:
    """Collectives of one kind and origin whose groups have devices of several slices.

    Attributes:
      origin: the part of the model, with "backward" for the backward pass.
      kind: the HLO name, as "all-reduce".
      shapes: of the result on one device.
      runs: executions in a run of the program.
      bytes: of the result on one device, in one execution.
      sums: whether it adds: an all-reduce or reduce-scatter whose computation is an addition.
    """

    origin: str
    kind: str
    shapes: tuple[str, ...]
    runs: int
    bytes: int
    sums: bool

    def __str__(self) -> str:
        what = "sum" if self.sums else self.kind
        return (f"{self.origin}: {what} of {', '.join(self.shapes)}, {self.runs} a run, "
                f"{self.bytes} bytes")


def find(hlo: str, slices: Sequence[int]) -> list[Crossing]:
    """The collectives that cross slices.

    Args:
      hlo: the text of a compiled program.
      slices: the slice of each device, in the order of the mesh (`mesh.devices.flat`).
    """
    found = [Crossing(each.origin, each.kind, _texts(each.shapes), each.runs, each.bytes,
                      _adds(hlo, each.line))
             for each in collectives.every(hlo)
             if any(len({slices[i] for i in group}) > 1
                    for group in groups(each.line, len(slices)))]
    for each in collectives.every(hlo, _SENT):
        if kind := _TRANSFER.search(each.line):
            sent = each._replace(shapes=each.shapes[:1])  # the others are of the transfer itself
            found.append(Crossing(sent.origin, kind[1].lower().replace("_", "-"),
                                  _texts(sent.shapes), sent.runs, sent.bytes,
                                  _SENT_SUM in sent.line))
    return found


def groups(line: str, num_devices: int) -> list[tuple[int, ...]]:
    """The groups of devices of a collective, in any of the forms in which HLO writes them.

    Args:
      line: of the instruction.
      num_devices: all of them are the one group of a collective that names none.

    Raises:
      ValueError: for groups of an unknown form.
    """
    if found := _EXPLICIT.search(line):
        return [tuple(map(int, group.split(","))) for group in
                re.findall(r"\{([\d,]+)\}", found[1])]
    if found := _IOTA.search(line):
        return [tuple(group) for group in _iota(found[2]).reshape(_numbers(found[1])).tolist()]
    if found := _AXES.search(line):
        return _groups_of_axes(*found.groups())
    if "replica_groups={}" in line or "replica_groups" not in line:
        return [tuple(range(num_devices))]
    raise ValueError(f"groups of an unknown form: {line.strip()[:300]}")


def _texts(shapes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{dtype}[{dims}]" for dtype, dims in shapes)


def _groups_of_axes(mesh: str, order: str | None, over: str) -> list[tuple[int, ...]]:
    """Groups over some axes of a mesh; an axis may be named in part, as 'a':(BEFORE)SIZE."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    shape, chosen = [], []
    parts = {name: (int(before or 1), int(size) if size else sizes[name]) for name, before, size in
             re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", over)}
    for name, size in sizes.items():
        before, part = parts.get(name, (1, 1))
        chosen.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    ids = (np.arange(math.prod(shape)) if order is None else _iota(order)).reshape(shape)
    kept = [i for i in range(len(shape)) if i not in chosen]
    rows = ids.transpose(kept + chosen).reshape(-1, math.prod(shape[i] for i in chosen))
    return [tuple(group) for group in rows.tolist()]


def _iota(text: str) -> np.ndarray:
    """Device ids in the order of "[4,2]T(1,0)": counted in this shape, and read transposed."""
    shape = _numbers(text.split("T")[0])
    ids = np.arange(math.prod(shape)).reshape(shape)
    return (ids.transpose(_numbers(text.split("T")[1])) if "T" in text else ids).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _adds(hlo: str, line: str) -> bool:
    named = re.search(r"to_apply=%?([\w.\-]+)", line)
    if named is None:
        return False
    body = re.search(rf"^%?{re.escape(named[1])} \(.*?\n\}}", hlo, re.MULTILINE | re.DOTALL)
    return bool(body and _SUM.search(body[0]))
