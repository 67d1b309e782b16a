"""The pieces of `lm2 bench device`, and the process that measures some of them."""

import dataclasses
import itertools
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import jax

from lm2_jax.bench import on_device, rival
from lm2_jax.bench.measures import DONE, FAILED, NOT_RUN, SCALES, Measure, Result, Scale
from lm2_jax.config import files
from lm2_jax.errors import UserError
from lm2_jax.runtime import compilation_cache

Measuring = Callable[[on_device.Bench], tuple[list[Measure], dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A measurement that is either made completely or not at all.

    Attributes:
      group: neighbouring pieces of the same group share a process.
      estimate: seconds at full scale on an H100, compilation included.
      measure: takes the bench; returns the figures, and values for later pieces.
    """

    name: str
    group: str
    estimate: float
    measure: Measuring

    def seconds(self, scale: str) -> float:
        """The estimated time at a scale."""
        return self.estimate if scale == "full" else 0.0


PIECES = (
    Piece("ceilings", "llama", 20, on_device.ceilings),
    Piece("train llama", "llama", 80, on_device.train_llama),
    Piece("train LM2", "LM2", 130, on_device.train_lm2),
    Piece("prefill sequential", "inference", 45, on_device.prefill_sequential),
    Piece("prefill wavefront", "inference", 45, on_device.prefill_wavefront),
    Piece("decode", "inference", 45, on_device.decode),
    Piece("longest prefill", "long", 50, on_device.longest_prefill),
    Piece("prefill full attention", "full attention", 40, on_device.prefill_full),
    Piece("train transformers' Llama", "torch", 80, rival.train),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be measured; see `device.run`."""

    path: str
    overrides: Mapping[str, str]
    scale: str
    pieces: Sequence[Piece]


def plan(path: str, overrides: Mapping[str, str], scale: str, chosen: Sequence[str] = ()) -> Work:
    """Checks the arguments of `device.run`.

    Raises:
      UserError: the config, the scale or a name cannot be used.
    """
    if scale not in SCALES:
        raise UserError(f"--scale is {scale!r}; it must be one of {', '.join(SCALES)}")
    known = [piece.name for piece in PIECES]
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"there is no piece {unknown[0]!r}; the pieces are "
                        f"{', '.join(map(repr, known))}")
    bench = make_bench(path, overrides, scale, {})
    if not bench.config.model.memory.num_layers or not bench.config.model.vocab_size:
        raise UserError(f"{path} must have a memory, and its model.vocab_size must be set")
    return Work(path, dict(overrides), scale,
                [piece for piece in PIECES if not chosen or piece.name in chosen])


def make_bench(path: str, overrides: Mapping[str, str], scale: str, known: Mapping[str, float]
               ) -> on_device.Bench:
    """Returns the argument of the measuring functions."""
    shapes: Scale = SCALES[scale]
    config = files.load_config(path, {**shapes.model, **overrides})
    return on_device.Bench(config, shapes, dict(known))


def groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of each process, in order."""
    return [list(group) for _, group in itertools.groupby(pieces, key=lambda piece: piece.group)]


def measure_group(work: Work, names: Sequence[str], end: float, log: str,
                  known: Mapping[str, float]) -> None:
    """Measures pieces in this process; writes a line of JSON to a file after each.

    Args:
      end: of the time, on `time.monotonic`, which all processes of a machine share.
      log: the file.
      known: values of earlier pieces.
    """
    def put(values: dict) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    compilation_cache.enable()
    bench = make_bench(work.path, work.overrides, work.scale, known)
    for piece in work.pieces:
        if piece.name in names:
            result = measured(piece, bench, work.scale, end)
            bench.known.update(result.values)
            put(dataclasses.asdict(result))
    # Not earlier: JAX then takes most of the memory of a GPU, which another library may need.
    put({"facts": {"device": jax.devices()[0].device_kind,
                   "date": datetime.now(UTC).strftime("%Y-%m-%d")}})


def measured(piece: Piece, bench: on_device.Bench, scale: str, end: float) -> Result:
    """Measures one piece, if it fits into the time."""
    left = end - time.monotonic()
    if left <= 0 or piece.seconds(scale) > left:
        return Result(piece.name, NOT_RUN, f"it takes about {piece.seconds(scale):.0f} s, and "
                                           f"{max(left, 0):.0f} s were left")
    begun = time.monotonic()
    try:
        found, values = piece.measure(bench)
    except on_device.NotMeasured as error:
        return Result(piece.name, NOT_RUN, str(error), time.monotonic() - begun)
    except Exception as error:  # what this piece cannot do, the next one may
        traceback.print_exc()
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Result(piece.name, FAILED, reason[:200], time.monotonic() - begun)
    return Result(piece.name, DONE, "", time.monotonic() - begun, found, values)
