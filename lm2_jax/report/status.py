"""The state of a run, read from its workdir, also while it trains, on any machine that sees it."""

import dataclasses
import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm2_jax.checkpoint import inventory
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.folder import CheckpointFolder
from lm2_jax.report.table import Table, percent
from lm2_jax.runtime import goodput, locks, paths, phases
from lm2_jax.training import held_out, starts
from lm2_jax.training.writers import read_lines

RECENT_STEPS = 100  # over which the time of a step is measured


@dataclass(frozen=True)
class Status:
    """The state of a run. Times are in seconds since 1970; None stands for what is not known.

    Attributes:
      workdir: as given.
      used_by: the command that holds the workdir now, with its host; "" if there is none.
      step: number of steps done.
      num_steps: number of steps of the whole run.
      loss: of the last step.
      held_out_loss: the last one measured.
      tokens_per_second: of the last steps.
      seconds_per_step: of the last steps, with the saves and evaluations between them.
      seconds_left: until the last step, at this rate.
      last_step_at: when the last step ended.
      saved_step, saved_at: of the newest whole checkpoint.
      hosts: names of the hosts at the last start.
      processes, devices: numbers of them at the last start.
      device: their kind.
      since: time of the last start.
      starts: number of starts.
      goodput: the fraction of the time since the first start that went into steps which were kept.
      seconds: wall time by phase, since the first start.
      weeks: wall time by phase, for each week.
    """

    workdir: str
    used_by: str
    step: int
    num_steps: int
    loss: float | None
    held_out_loss: float | None
    tokens_per_second: float | None
    seconds_per_step: float | None
    seconds_left: float | None
    last_step_at: float | None
    saved_step: int | None
    saved_at: float | None
    hosts: tuple[str, ...]
    processes: int | None
    devices: int | None
    device: str | None
    since: float | None
    starts: int
    goodput: float | None
    seconds: Mapping[str, float]
    weeks: Mapping[str, Mapping[str, float]]

    def to_dict(self) -> dict:
        """The fields, for JSON."""
        return dataclasses.asdict(self)


def read(workdir: str | Path) -> Status:
    """Reads the state of the run in a workdir; nothing is written, and no checkpoint is loaded.

    Raises:
      UserError: if there is no run.
    """
    workdir = paths.of(workdir)
    config, folder = workdirs.stored_config(workdir), CheckpointFolder(workdir)
    lines, noted = read_lines(workdir / "metrics.jsonl"), phases.read(workdir / phases.FILE)
    started, saved = starts.read(workdir), folder.steps()
    trained = [line for line in lines if "loss" in line]
    last, start = trained[-1] if trained else {}, started[-1] if started else {}
    step = last.get("step", 0)
    per_step = _seconds_per_step(trained, start.get("time", 0.0))
    seconds = _seconds(lines, noted)
    return Status(
        workdir=str(workdir), used_by=locks.holder(workdir), step=step,
        num_steps=config.train.num_steps, loss=last.get("loss"),
        held_out_loss=next((line[held_out.KEY] for line in reversed(lines)
                            if held_out.KEY in line), None),
        tokens_per_second=last.get("tokens_per_second"), seconds_per_step=per_step,
        seconds_left=None if per_step is None else per_step * max(
            0, config.train.num_steps - step),
        last_step_at=last.get(phases.TIME), saved_step=saved[-1] if saved else None,
        saved_at=inventory.saved_at(folder, saved[-1]) if saved else None,
        hosts=tuple(start.get("hosts", ())), processes=start.get("processes"),
        devices=start.get("devices"), device=start.get("device"), since=start.get("time"),
        starts=len(started), goodput=phases.goodput(seconds) if seconds else None,
        seconds=seconds, weeks=goodput.by_week(lines, noted))


def table(status: Status, now: float | None = None) -> Table:
    """A row for each field that a person reads.

    Args:
      now: in seconds since 1970; None is the present.
    """
    now, s = time.time() if now is None else now, status
    of_all = f" of {s.num_steps:,} ({percent(min(1.0, s.step / s.num_steps))} %)"
    rows = [("state", _state(s)), ("step", f"{s.step:,}{of_all}"),
            ("loss", _number(s.loss, ".4f") + (
                "" if s.held_out_loss is None else f", held out {s.held_out_loss:.4f}")),
            ("rate", f"{_number(s.tokens_per_second, ',.0f')} tokens/s, "
                     f"{_number(s.seconds_per_step, '.3g')} s a step"),
            ("time left", "none" if s.step >= s.num_steps else duration(s.seconds_left)),
            ("last step", _ago(s.last_step_at, now)),
            ("last save", "none" if s.saved_step is None else
             f"step {s.saved_step:,}, {_ago(s.saved_at, now)}"),
            ("hosts", f"{len(s.hosts)}: {', '.join(s.hosts[:4])}" + (
                f" and {len(s.hosts) - 4} more" if len(s.hosts) > 4 else "") if s.hosts else "-"),
            ("devices", f"{s.devices} x {s.device}, {s.processes} processes" if s.devices else "-"),
            ("since", _ago(s.since, now) + (f", start {s.starts}" if s.starts > 1 else "")),
            ("goodput", "-" if s.goodput is None else f"{percent(s.goodput)} %")]
    return Table([], [rows], text_columns=2)


def weeks_table(status: Status) -> Table:
    """The share of each phase in the time of each week, and of the whole run, in per cent."""
    groups = {"productive": (phases.STEP,), "compile": (phases.COMPILE,), "data": (phases.DATA,),
              "save": (phases.SAVE,), "evaluation": (phases.EVAL,), "start": (phases.START,),
              "lost": (phases.RESTART, phases.DOWN)}

    def row(name: str, seconds: Mapping[str, float]) -> list[str]:
        total = sum(seconds.values())
        return [name, f"{total / 3600:,.1f}", *(
            percent(sum(seconds.get(part, 0.0) for part in parts) / max(total, 1e-9))
            for parts in groups.values())]

    weeks = [row(name, seconds) for name, seconds in status.weeks.items()]
    return Table(["week", "hours", *groups], [weeks, [row("all", status.seconds)]],
                 note="lost: repeated steps, starts of resumed runs, and the time without a run")


def duration(seconds: float | None) -> str:
    """3 d 4 h, 2 h 5 min, 3 min or 12 s; "-" of None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if not hours:
        return f"{minutes} min"
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min"


def _state(status: Status) -> str:
    if status.used_by:
        return f"in use by {status.used_by}"
    return "trained to the last step" if status.step >= status.num_steps else "not running here"


def _seconds_per_step(trained: Sequence[Mapping], since: float) -> float | None:
    """Of the last steps that followed the last start."""
    recent = [line for line in trained[-RECENT_STEPS:] if line.get(phases.TIME, 0.0) > since]
    if len(recent) < 2:
        return None
    first, last = (phases.of_line(line) for line in (recent[0], recent[-1]))
    spent = sum(last[name] - first[name] for name in
                (phases.DATA, phases.STEP, phases.SAVE, phases.EVAL))
    return spent / (recent[-1]["step"] - recent[0]["step"])


def _seconds(lines: Sequence[Mapping], noted: Mapping | None) -> dict[str, float]:
    """Seconds by phase as they were noted last; {} if they never were."""
    timed = [line for line in lines if phases.TIME in line]
    if noted and (not timed or noted.get(phases.TIME, 0.0) >= timed[-1][phases.TIME]):
        return dict.fromkeys(phases.PHASES, 0.0) | noted["seconds"]
    return phases.of_line(timed[-1]) if timed else {}


def _ago(when: float | None, now: float) -> str:
    if when is None:
        return "-"
    shown = datetime.datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")
    return f"{shown}, {duration(max(0.0, now - when))} ago"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
