"""Accounts for the wall time of a run, across its restarts: compilation, data, steps, ..."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm2_jax.runtime import paths
from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import write_text

START, COMPILE, DATA, STEP, SAVE, EVAL, RESTART, DOWN = PHASES = (
    "start", "compile", "data", "step", "save", "eval", "restart", "down")
FILE = "time.json"  # in a workdir: wall time by phase, after the last step and save
PREFIX = "seconds_"  # of the keys in metrics.jsonl
TIME = "time"
OLD_NAMES = {"lost": RESTART}  # in files of earlier versions


class Phases:
    """Seconds spent in each phase; at any time exactly one phase runs.

    Phases:
      start: until the first step of the first run.
      compile, data, step, save, eval: compiling a step, waiting for a batch, training, waiting for
        a save, evaluating.
      restart: what restarts cost: steps trained again, and the time until the first step of a
        resumed run.
      down: the time without a run: from the last record of a run to the start of the next one.

    Args:
      before: seconds of earlier runs in the same workdir, by phase; None = this is the first run.
      began: time.perf_counter() at the start of this run; None = now.

    Attributes:
      now: the phase that runs.
      since: time.perf_counter() at its start.
    """

    def __init__(self, before: Mapping[str, float] | None = None, began: float | None = None):
        self._totals = dict.fromkeys(PHASES, 0.0) | dict(before or {})
        self._lock = threading.Lock()
        self.now = RESTART if before else START
        self.since = time.perf_counter() if began is None else began

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Counts the time of the context to `phase`, except for phases entered inside it."""
        outer = self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def enter(self, phase: str) -> str:
        """Starts a phase; returns the one that ends."""
        with self._lock:
            now = time.perf_counter()
            ended, self._totals[self.now] = self.now, self._totals[self.now] + now - self.since
            self.now, self.since = phase, now
        return ended

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, up to now."""
        with self._lock:
            running = time.perf_counter() - self.since
            return self._totals | {self.now: self._totals[self.now] + running}

    def metrics(self) -> dict[str, float]:
        """Values for a line of metrics.jsonl: the time (in seconds since 1970), goodput, and the
        seconds of each phase so far."""
        seconds = self.seconds()
        return {TIME: round(time.time(), 3), "goodput": round(goodput(seconds), 4),
                **{PREFIX + name: round(value, 3) for name, value in seconds.items()}}


def goodput(seconds: Mapping[str, float]) -> float:
    """The fraction of the time since the first start that was spent in training steps which were
    not repeated, 0 to 1."""
    return seconds[STEP] / max(sum(seconds.values()), 1e-9)


def of_earlier_runs(lines: Sequence[Mapping], saved: Mapping | None, first_step: int,
                    began: float | None = None) -> dict[str, float] | None:
    """Seconds by phase of the earlier runs in a workdir, for a run that resumes after `first_step`.

    Args:
      lines: of metrics.jsonl, including those of steps after `first_step`, which will be trained
        again: their time counts as "restart".
      saved: of `read`; it includes what followed the last step, if that is `first_step`.
      began: when this run began, in seconds since 1970. The time from the last record of an
        earlier run until then counts as "down"; None counts none.

    Returns:
      None if there was no earlier run.
    """
    if not lines and not first_step:
        return None
    found = {line["step"]: of_line(line) for line in lines}
    kept = dict.fromkeys(PHASES, 0.0) | found.get(first_step, {})
    if saved and saved["step"] == first_step:
        kept |= saved["seconds"]
    last = found.get(lines[-1]["step"], {}) if lines else {}
    kept[RESTART] += max(0.0, sum(last.values()) - sum(kept.values()))
    times = [record[TIME] for record in (*lines, saved or {}) if _is_seconds(record.get(TIME))]
    if began is not None and times:
        kept[DOWN] += max(0.0, began - max(times))
    return kept


def of_line(line: Mapping) -> dict[str, float]:
    """Seconds by phase of a line of metrics.jsonl."""
    seconds = dict.fromkeys(PHASES, 0.0)
    for key, value in line.items():
        name = OLD_NAMES.get(key.removeprefix(PREFIX), key.removeprefix(PREFIX))
        if key.startswith(PREFIX) and name in seconds and _is_seconds(value):
            seconds[name] += value
    return seconds


def write(path: str | Path, step: int, phases: Phases) -> None:
    """Writes the seconds by phase so far, including saves and evaluations after the step."""
    seconds = {name: round(value, 3) for name, value in phases.seconds().items()}
    write_text(path, json.dumps({"step": step, TIME: round(time.time(), 3), "seconds": seconds})
               + "\n")


def read(path: str | Path) -> dict | None:
    """Returns what `write` wrote, as {"step": ..., "time": ..., "seconds": {phase: ...}}.

    "time" is missing if an earlier version wrote the file. None is returned if there is no file,
    and if it is damaged, which is reported.
    """
    try:
        found = json.loads(paths.of(path).read_bytes())
        seconds = {OLD_NAMES.get(name, name): value for name, value in found["seconds"].items()}
        if type(found["step"]) is int and all(map(_is_seconds, seconds.values())) and (
                seconds.keys() <= set(PHASES)):
            when = {TIME: found[TIME]} if _is_seconds(found.get(TIME)) else {}
            return {"step": found["step"], **when, "seconds": seconds}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    print_error(f"{path} cannot be read; the times of earlier runs are taken from metrics.jsonl "
                "alone")
    return None


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def summary(seconds: Mapping[str, float]) -> str:
    """One line: total time, the share of each phase that took any, and the goodput."""
    total = sum(seconds.values())
    shares = ", ".join(f"{name} {value / max(total, 1e-9):.1%}"
                       for name, value in seconds.items() if value > 0.0005 * total)
    return f"{total:,.0f} s: {shares} (goodput {goodput(seconds):.1%})"
