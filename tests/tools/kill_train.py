"""Kills a training run repeatedly and compares its result with that of an uninterrupted run.

    python tests/tools/kill_train.py --kills 200 --out configs/results/kill_train/200_kills.json
    python tests/tools/kill_train.py --kills 100 --store gs --out kills_gs.json

With --store the killed run is in a bucket of an emulator (gs or s3), and is compared with an
uninterrupted one on a local disk. Each kill comes at a random moment during a save, between two
steps, or during the start. The file of --out is written after each kill, and in the end with what
the runs are equal in; after --minutes, or SIGTERM, the run is killed no more, and ends. The tests
of resuming use the functions of this file.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import lm2_jax
from lm2_jax.checkpoint.folder import COMMIT_MARKER
from lm2_jax.report import provenance
from lm2_jax.runtime import appended, paths
from lm2_jax.runtime.buckets import BucketPath

sys.path.append(str(Path(__file__).parents[1]))
import emulators  # noqa: E402
import runs  # noqa: E402

KINDS = ("save", "step", "save", "start")  # when the kills happen, in this cycle
STEPS = 16
STEPS_PER_KILL = 8  # added to STEPS
SECONDS_OF_SAVE = 4.0  # in a bucket of an emulator
SAVING = ".orbax-checkpoint-tmp"  # suffix of a step until it is complete
SPEED = ("tokens_per_second", "mfu", "goodput", "seconds_", "time")  # the metrics that may differ


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
      number, kind: from 1; one of KINDS.
      seconds: from the start of the process to the kill.
      step: the last step in metrics.jsonl.
      in_save: whether it interrupted a save.
      checkpoints: the steps of the complete checkpoints, separated by spaces.
      rejected: the number of complete checkpoints that the killed process found damaged.
    """

    number: int
    kind: str
    seconds: float
    step: int
    in_save: bool
    checkpoints: str
    rejected: int = 0

    @property
    def lost(self) -> int:
        """The number of steps that have to be repeated."""
        return max(0, self.step - max(map(int, self.checkpoints.split()), default=0))


@dataclasses.dataclass(frozen=True)
class Report:
    """The kills, and in what the results of the two runs are equal."""

    kills: list[Kill]
    same_params: bool
    each_step_once: bool
    same_metrics: bool
    same_results: bool

    @property
    def good(self) -> bool:
        return (self.same_params and self.each_step_once and self.same_metrics
                and self.same_results)

    def summary(self) -> dict[str, int | float | bool]:
        """Returns the totals printed under the table."""
        compared = [field.name for field in dataclasses.fields(self)[1:]]
        return totals(self.kills) | {
            "mismatches": sum(not getattr(self, name) for name in compared),
            **{name.replace("_", " "): getattr(self, name) for name in compared}}


def totals(kills: list[Kill]) -> dict[str, int | float | bool]:
    """Returns what is known before the runs are compared."""
    lost = [kill.lost for kill in kills]
    return {"kills": len(lost), "kills in a save": sum(kill.in_save for kill in kills),
            "steps lost": sum(lost), "steps lost, most at once": max(lost, default=0),
            "checkpoints rejected": sum(kill.rejected for kill in kills)}


def num_steps(kills: int) -> int:
    return STEPS + STEPS_PER_KILL * kills


def run(folder: Path, kills: int, seed: int, alone: Path | None = None,
        say: Callable[[str], None] = print, killed: Path | None = None,
        after_kill: Callable[[list[Kill]], bool] = lambda _: False,
        last: int = 0) -> Report:
    """Trains in `killed` and kills the process `kills` times.

    Args:
      folder: local, for the logs of the processes.
      killed: may be in a bucket; None = folder/killed.
      alone: workdir of an uninterrupted run; None to train it in `folder` first.
      say: prints a line.
      after_kill: receives the kills so far; returns whether they are enough.
      last: the step at which the runs end; 0 = num_steps(kills).
    """
    last = last or num_steps(kills)
    steps = f"--config.train.num_steps={last}"
    if alone is None:
        say("the uninterrupted run ...")
        alone = folder / "alone"
        finish(alone, steps)
    if last_step(alone) != last:
        raise ValueError(f"{alone} has {last_step(alone)} steps; it must have {last}")
    killed = killed or folder / "killed"
    rng, startup, done = np.random.default_rng(seed), 5.0, []
    say(f"{'kill':>4}  {'moment':8}  {'seconds':>7}  {'step':>4}  {'in a save':9}  checkpoints")
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        target = next_target(killed, rng, last, kills - number)
        kill, startup = kill_once(killed, folder / "killed.log", steps, number + 1, kind, target,
                                  rng, startup)
        done.append(kill)
        say(f"{kill.number:4}  {kill.kind:8}  {kill.seconds:7.2f}  {kill.step:4}  "
            f"{'yes' if kill.in_save else 'no':9}  {kill.checkpoints}")
        if after_kill(done):
            break
    finish(killed, steps)
    report = compare(done, alone, killed, last)
    for name, value in report.summary().items():
        say(f"{name}: {value if not isinstance(value, bool) else 'yes' if value else 'NO'}")
    return report


def finish(workdir: Path, steps: str) -> None:
    ended = runs.lm2("train", workdir, steps)
    if ended.returncode:
        raise RuntimeError(f"the run in {workdir} ended with {ended.returncode}: {ended.stderr}")


def next_target(workdir: Path, rng: np.random.Generator, last: int, kills_left: int) -> int:
    """Returns a step after the newest checkpoint that leaves a fair share to the later kills."""
    first = max(checkpoints(workdir), default=0)
    return first + int(rng.integers(1, max(2, 1.5 * (last - first) / (kills_left + 1)) + 1))


def kill_once(workdir: Path, log: Path, steps: str, number: int, kind: str, target: int,
              rng: np.random.Generator, startup: float) -> tuple[Kill, float]:
    """Starts the run and kills it. Also returns the seconds from the start to the first step."""
    in_bucket = isinstance(workdir, BucketPath)  # where a save takes longer
    old_saves, old_time = saves(workdir), inode(workdir / "time.json")
    wait = rng.uniform(0, startup if kind == "start" else SECONDS_OF_SAVE if in_bucket else 0.05)
    began = time.monotonic()
    with log.open("w") as said:
        process = runs.start("train", workdir, steps, stdout=said, stderr=subprocess.STDOUT)

    def until(happened: Callable[[], bool]) -> None:
        while process.poll() is None and not happened():
            time.sleep(0.1 if in_bucket else 0.002)

    try:
        if kind != "start":
            until(lambda: inode(workdir / "time.json") != old_time)
            until(lambda: last_step(workdir) > max(checkpoints(workdir), default=0))
            startup = time.monotonic() - began
            until(lambda: last_step(workdir) >= target)
        if kind == "save":
            until(lambda: bool(saves(workdir) - old_saves))
        time.sleep(wait)
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with {process.returncode} before kill {number}: "
                               + log.read_text("utf-8"))
    finally:
        process.kill()
        process.wait()
    return Kill(number=number, kind=kind, seconds=time.monotonic() - began,
                step=last_step(workdir), in_save=bool(saves(workdir) - old_saves),
                checkpoints=" ".join(map(str, checkpoints(workdir))),
                rejected=log.read_text("utf-8").count(" is damaged: ")), startup


def checkpoints(workdir: Path) -> list[int]:
    if isinstance(workdir, BucketPath):
        return sorted(step for step, objects in _objects(workdir).items()
                      if COMMIT_MARKER in objects)
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*")
                  if path.name.isdecimal())


def saves(workdir: Path) -> set[tuple[str, int]]:
    """Returns the incomplete saves, of a running or a killed process."""
    if isinstance(workdir, BucketPath):
        return {(str(step), int(1e9 * min(objects.values())))
                for step, objects in _objects(workdir).items() if COMMIT_MARKER not in objects}
    found = set()
    for path in (workdir / "checkpoints").glob(f"*{SAVING}*"):
        try:
            found.add((path.name, path.stat().st_ctime_ns))
        except FileNotFoundError:
            continue
    return found


def _objects(workdir: BucketPath) -> dict[int, dict[str, float]]:
    """{step: {name: time of writing}} of what is in the folders of the steps."""
    found: dict[int, dict[str, float]] = {}
    folder = workdir / "checkpoints"
    for path in folder.rglob("*"):
        step, _, name = path.relative_to(folder).as_posix().partition("/")
        if step.isdecimal():
            found.setdefault(int(step), {})[name] = path.stat().st_mtime
    return found


def inode(path: Path) -> int | str | None:
    """Returns the inode or version, which differs between a file and its replacement."""
    if isinstance(path, BucketPath):
        with contextlib.suppress(FileNotFoundError):
            return path.version()
        return None
    return path.stat().st_ino if path.exists() else None


def lines(workdir: Path) -> list[dict]:
    text = appended.read(workdir / "metrics.jsonl").decode()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in lines(workdir)), default=0)


def compare(kills: list[Kill], alone: Path, killed: Path, steps: int) -> Report:
    def end(workdir: Path):
        _, params, step = lm2_jax.load_checkpoint(workdir)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return step, [(str(path), str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
                      for path, leaf in leaves]

    def metrics(workdir: Path):
        return [{key: value for key, value in line.items() if not key.startswith(SPEED)}
                for line in lines(workdir)]

    def results(workdir: Path):
        return [(path.relative_to(workdir).as_posix(), path.read_bytes())
                for path in sorted((workdir / "eval").rglob("*"))
                if path.suffix in (".json", ".jsonl", ".csv") and path.stem != "provenance"]

    return Report(kills, same_params=end(alone) == end(killed),
                  each_step_once=[line["step"] for line in lines(killed)] == [
                      *range(1, steps + 1)],
                  same_metrics=metrics(alone) == metrics(killed),
                  same_results=results(alone) == results(killed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the report")
    parser.add_argument("--folder", type=Path, help="where to train; by default a temporary folder")
    parser.add_argument("--store", choices=("gs", "s3"), help="of the killed run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the most to kill for")
    args = parser.parse_args()
    asked, until = [], time.monotonic() + 60 * args.minutes
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    def after_kill(kills: list[Kill]) -> bool:
        write(args, totals(kills), kills)
        return bool(asked) or time.monotonic() > until

    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        killed = None
        if args.store:
            store = stack.enter_context(emulators.started(args.store, folder))
            killed = paths.of(store.path("killed run"))
        report = run(folder, args.kills, args.seed, killed=killed, after_kill=after_kill)
    write(args, report.summary(), report.kills)
    return 0 if report.good else 1


def write(args: argparse.Namespace, facts: dict, kills: list[Kill]) -> None:
    """Writes the file of --out, if one is wanted."""
    if args.out:
        command = f"python tests/tools/kill_train.py --kills {args.kills} --seed {args.seed}"
        command += f" --store {args.store}" if args.store else ""
        about = {"command": command, "commit": provenance.commit(), "jax": jax.__version__}
        args.out.write_text(json.dumps(about | facts | {
            "each": [dataclasses.asdict(kill) | {"lost": kill.lost} for kill in kills]},
            indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
