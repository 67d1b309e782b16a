"""The groups of devices of a collective, in any of the forms in which HLO writes them."""

import math
import re

import numpy as np

_EXPLICIT = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))? \{([^}]*)\}")


def of(line: str) -> list[tuple[int, ...]]:
    """The groups of a collective, of indices of devices in the order of the mesh.

    They are written as a list, {{0,1},{2,3}}; as the rows of an array, [2,2]<=[4] or
    [2,2]<=[2,2]T(1,0); as axes of a mesh, mesh['x'=2,'y'=2] {'x'}; or as pairs of a sender and a
    receiver, each of which is a group here.

    Args:
      line: of the instruction.

    Returns:
      [] if it names none: then all devices are in one.

    Raises:
      ValueError: for another form.
    """
    if found := _EXPLICIT.search(line):
        return [tuple(map(int, group.split(","))) for group in
                re.findall(r"\{([\d,]+)\}", found[1])]
    if found := _IOTA.search(line):
        return [tuple(group) for group in _iota(found[2]).reshape(_numbers(found[1])).tolist()]
    if found := _AXES.search(line):
        return _of_axes(*found.groups())
    if "replica_groups={}" in line or "replica_groups" not in line:
        return []
    raise ValueError(f"groups of an unknown form: {line.strip()[:300]}")


def _of_axes(mesh: str, order: str | None, over: str) -> list[tuple[int, ...]]:
    """Groups over some axes of a mesh; an axis may be named in part, as 'a':(BEFORE)SIZE."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    shape: list[int] = []
    chosen: list[int] = []
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
