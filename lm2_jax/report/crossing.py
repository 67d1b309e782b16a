"""The collectives of a compiled program that exchange data between slices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lm2_jax.report import collectives, groups

_SUM = re.compile(r" add\(")
# The TPU compiler sends data for other slices to the host, which exchanges it over the network.
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
             for each in collectives.each(hlo)
             if any(len({slices[i] for i in group}) > 1
                    for group in groups.of(each.line) or [tuple(range(len(slices)))])]
    for each in collectives.each(hlo, _SENT):
        if kind := _TRANSFER.search(each.line):
            sent = each._replace(shapes=each.shapes[:1])  # the others are of the transfer itself
            found.append(Crossing(sent.origin, kind[1].lower().replace("_", "-"),
                                  _texts(sent.shapes), sent.runs, sent.bytes,
                                  _SENT_SUM in sent.line))
    return found


def _texts(shapes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{dtype}[{dims}]" for dtype, dims in shapes)


def _adds(hlo: str, line: str) -> bool:
    named = re.search(r"to_apply=%?([\w.\-]+)", line)
    if named is None:
        return False
    body = re.search(rf"^%?{re.escape(named[1])} \(.*?\n\}}", hlo, re.MULTILINE | re.DOTALL)
    return bool(body and _SUM.search(body[0]))
