"""What the pieces of `lm2 bench device` are given, and what they find."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import jax

DONE, NOT_RUN, FAILED = "measured", "not run", "failed"


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure of a piece.

    Attributes:
      what: it is, as "step".
      values: of the repetitions, or one.
      unit: as "ms"; values are in it.
      against: a comparison, as "52.1 % of 989 TFLOP/s"; "" for none.
    """

    what: str
    values: Sequence[float]
    unit: str
    against: str = ""

    @property
    def text(self) -> str:
        """The median with its unit."""
        return f"{_rounded(median(self.values))} {self.unit}"

    @property
    def spread(self) -> str:
        """The lowest and the highest of several values; "" of one."""
        if len(self.values) < 2:
            return ""
        return f"{_rounded(min(self.values))} to {_rounded(max(self.values))}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What has become of a piece.

    Attributes:
      status: DONE, NOT_RUN or FAILED.
      reason: why it was not measured.
      seconds: that it took, compilation included.
      values: figures that later pieces compare with, by name.
    """

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    measures: Sequence[Measure] = ()
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict) -> "Result":
        """The result that `dataclasses.asdict` has made this of."""
        return cls(**values | {"measures": [Measure(**one) for one in values["measures"]]})


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is. Only shapes differ between scales.

    Attributes:
      model: changes of the config.
      matrix: rows and columns of the matrices whose product is timed.
      copied: bytes of the array that is copied.
      segments: of a training row.
      rows: numbers of rows that training tries, the largest that fits first.
      lengths: segments of the contexts that are read: short, long, and the longest.
      prompt: tokens of the prompts that are generated after.
      new: tokens that are generated.
      batches: numbers of rows that are generated together.
      repeats: measurements of everything.
    """

    model: Mapping[str, str]
    matrix: int
    copied: int
    segments: int
    rows: Sequence[int]
    lengths: tuple[int, int, int]
    prompt: int
    new: int
    batches: Sequence[int]
    repeats: int


SCALES = {
    "full": Scale({}, matrix=8192, copied=2**31, segments=4, rows=(16, 12, 8, 6, 4, 3, 2, 1),
                  lengths=(8, 64, 512), prompt=128, new=65, batches=(1, 64), repeats=5),
    "tiny": Scale({"model.vocab_size": "128", "model.embed_dim": "32", "model.num_layers": "1",
                   "model.num_heads": "2", "model.num_kv_heads": "1", "model.mlp_dim": "48",
                   "model.segment_length": "16", "model.memory.num_layers": "1",
                   "model.memory.num_heads": "2", "model.memory.num_slots": "8",
                   "train.loss_chunk_tokens": "8"},
                  matrix=64, copied=2**16, segments=2, rows=(2, 1), lengths=(1, 2, 4), prompt=4,
                  new=5, batches=(1, 2), repeats=2),
}


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each repetition of the work, which is done once before."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - begun)
    return seconds


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
