"""What the wall time of a run went to, kept across its restarts."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lm2_jax.runtime.files import replacing

START, COMPILE, DATA, STEP, SAVE, EVAL, LOST = PHASES = (
    "start", "compile", "data", "step", "save", "eval", "lost")
PREFIX = "seconds_"  # of the keys in metrics.jsonl


class Phases:
    """Seconds by phase; every moment belongs to one.

    Args:
      before: seconds of earlier runs in the same workdir; None = the first one. What comes until
        the first step of a later one is lost to its restart.
      begun: when this run did, by time.perf_counter(); None = now.
    """

    def __init__(self, before: Mapping[str, float] | None = None, begun: float | None = None):
        self._totals = dict.fromkeys(PHASES, 0.0) | dict(before or {})
        self._lock = threading.Lock()
        self.now = LOST if before else START
        self.since = time.perf_counter() if begun is None else begun

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """The time until this is left, but for phases entered in it, is of `phase`."""
        outer = self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def enter(self, phase: str) -> str:
        """Begins a phase; returns the one that it ends."""
        with self._lock:
            now = time.perf_counter()
            ended, self._totals[self.now] = self.now, self._totals[self.now] + now - self.since
            self.now, self.since = phase, now
        return ended

    def seconds(self) -> dict[str, float]:
        """Of each phase, the running one included."""
        with self._lock:
            running = time.perf_counter() - self.since
            return self._totals | {self.now: self._totals[self.now] + running}

    def metrics(self) -> dict[str, float]:
        """For a line of metrics.jsonl: cumulative seconds, and the share of the steps in them."""
        seconds = self.seconds()
        return {"goodput": round(goodput(seconds), 4),
                **{PREFIX + name: round(value, 3) for name, value in seconds.items()}}


def goodput(seconds: Mapping[str, float]) -> float:
    """The share of the time that went to steps that count."""
    return seconds[STEP] / max(sum(seconds.values()), 1e-9)


def of_earlier_runs(lines: Sequence[Mapping], noted: Mapping | None, first_step: int
                    ) -> dict[str, float] | None:
    """Seconds by phase of the runs before, when one goes on after `first_step`; None = no run.

    Args:
      lines: of metrics.jsonl, those of steps that are done again included: the time since
        `first_step` is lost.
      noted: what `note` wrote; it counts what came after the last step, if that is `first_step`.
    """
    if not lines and not first_step:
        return None
    found = {line["step"]: {name: line.get(PREFIX + name, 0.0) for name in PHASES}
             for line in lines}
    kept = dict.fromkeys(PHASES, 0.0) | found.get(first_step, {})
    if noted and noted["step"] == first_step:
        kept |= noted["seconds"]
    last = found.get(lines[-1]["step"], {}) if lines else {}
    kept[LOST] += max(0.0, sum(last.values()) - sum(kept.values()))
    return kept


def note(path: str | Path, step: int, phases: Phases) -> None:
    """Writes the seconds until after a step, with what was saved and evaluated then."""
    with replacing(path) as partial:
        partial.write_text(json.dumps({"step": step, "seconds": {
            name: round(value, 3) for name, value in phases.seconds().items()}}) + "\n", "utf-8")


def read_note(path: str | Path) -> dict | None:
    """What `note` wrote; None if there is nothing that can be read."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def summary(seconds: Mapping[str, float]) -> str:
    """One line: the whole, and the share of each phase that took any."""
    total = sum(seconds.values())
    shares = ", ".join(f"{name} {value / max(total, 1e-9):.1%}"
                       for name, value in seconds.items() if value > 0.0005 * total)
    return f"{total:,.0f} s: {shares} (goodput: the steps' {goodput(seconds):.1%})"
