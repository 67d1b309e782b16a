"""The roofline bound on the time of a compiled step: arithmetic, memory traffic, collectives.

Each of the three is bounded by a published peak of the chip; the largest is the bound on the step,
reached if the other two overlap with it completely. Real steps take longer, since neither matrix
units nor memory nor links run at their peak.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lm2_jax.report.collectives import Collective
from lm2_jax.training import clock

GB = 1e9
Coordinates = Sequence[int]


@dataclass(frozen=True)
class Chip:
    """Peaks of one chip, from the pages of Cloud TPU's documentation on v5e, v5p and v6e
    (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e; read in 2026) and NVIDIA's data sheets of the
    H100 and H200 (SXM). Peak FLOP/s are those of `clock.PEAK_FLOPS`.

    Attributes:
      memory: bytes/s of its main memory (HBM).
      link: bytes/s of one link to a neighbour in one direction. It is the chip's bidirectional
        bandwidth over 2 x its number of links: 4 in a torus of two dimensions, 6 in one of three.
        0 where devices are not linked in a torus, or where the bound leaves them out.
      ring: an axis of the slice is a ring, with a link back from its end, if its length is a
        multiple of this; otherwise it is a line.
    """

    memory: float
    link: float = 0.0
    ring: int = 1


CHIPS = {
    "TPU v5 lite": Chip(819 * GB, 400 * GB / 8, 16), "TPU v5e": Chip(819 * GB, 400 * GB / 8, 16),
    "TPU v5": Chip(2765 * GB, 1200 * GB / 12, 4), "TPU v5p": Chip(2765 * GB, 1200 * GB / 12, 4),
    "TPU v6 lite": Chip(1638 * GB, 800 * GB / 8, 16), "TPU v6e": Chip(1638 * GB, 800 * GB / 8, 16),
    "NVIDIA H100": Chip(3350 * GB), "NVIDIA H200": Chip(4800 * GB),
}


@dataclass(frozen=True)
class Bound:
    """Seconds that a device needs at least for its part of a step.

    Attributes:
      arithmetic: the FLOPs of the matrix products at the peak.
      memory: the bytes that are read from and written to its main memory, at the peak.
      interconnect: the bytes that it receives from other devices, over all links at their peak.
    """

    arithmetic: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The least time, where the three overlap completely."""
        return max(self.arithmetic, self.memory, self.interconnect)

    @property
    def no_overlap(self) -> float:
        """The least time where none of the three overlaps with another."""
        return self.arithmetic + self.memory + self.interconnect

    @property
    def limit(self) -> str:
        """What takes the longest: "arithmetic", "memory" or "interconnect"."""
        return max(("arithmetic", "memory", "interconnect"), key=lambda name: getattr(self, name))


def chip(kind: str) -> Chip | None:
    """The peaks of a kind of device; None if they are not known, as for a CPU."""
    return clock.of_kind(CHIPS, kind)


def bound(kind: str, flops: float, moved: float, interconnect: float = 0.0) -> Bound | None:
    """The bound of what one device does; None if its peaks are not known.

    Args:
      kind: of the device, as JAX names it.
      flops: of matrix products.
      moved: bytes to and from its main memory.
      interconnect: seconds, from `exchange_seconds`.
    """
    peak, peaks = clock.of_kind(clock.PEAK_FLOPS, kind), chip(kind)
    if peak is None or peaks is None:
        return None
    return Bound(flops / peak, moved / peaks.memory, interconnect)


def exchange_seconds(collectives: Iterable[Collective], peaks: Chip,
                     coordinates: Sequence[Coordinates]) -> float:
    """The least seconds in which the collectives of a program deliver what a device receives.

    Args:
      peaks: of the chip; its links must be known.
      coordinates: of each device in the slice, in the order of the mesh.
    """
    shape = [max(axis) + 1 for axis in zip(*coordinates, strict=True)]
    total = 0.0
    for one in collectives:
        links = _links([coordinates[i] for i in one.group], shape, peaks.ring)
        if links:
            total += one.runs * one.received / (links * peaks.link)
    return total


def _links(group: Sequence[Coordinates], shape: Sequence[int], ring: int) -> int:
    """Links over which the chip that has the fewest of them receives from its group.

    They are those along the axes of the slice on which the group's chips differ: two on a ring, one
    at the end of a line.
    """
    return sum((2 if size > 2 and size % ring == 0 else 1)
               for axis, size in enumerate(shape) if len({place[axis] for place in group}) > 1)
