"""The figures, the results and the sizes of `lm2 bench device`."""

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
      what: name of the figure, as "step".
      values: one for each repetition, or a single one.
      unit: of the values, as "ms".
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
    """The result of a piece.

    Attributes:
      name: of the piece.
      status: DONE, NOT_RUN or FAILED.
      reason: why it was not measured.
      seconds: that the piece took, compilation included.
      measures: its figures.
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
        """Returns the result from which `dataclasses.asdict` made these values."""
        return cls(**values | {"measures": [Measure(**one) for one in values["measures"]]})


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of the model and of the inputs, which are all that differs between scales.

    Attributes:
      model: overrides of the config.
      matrix: rows and columns of the matrices whose product is timed.
      copied: bytes of the array that is copied.
      segments: number of segments of a training row.
      rows: numbers of rows that training tries, the largest first.
      lengths: numbers of segments of the short, the long and the longest context.
      prompt: tokens of a prompt of the generation.
      new: tokens that are generated after it.
      batches: numbers of rows that are generated together.
      repeats: repetitions of each measurement.
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
    """Returns the seconds of each repetition of the work, which is done once before."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - begun)
    return seconds


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
