"""`lm2 sweep`: a queue of trainings, a few at a time, with one table of their results."""

import argparse
import contextlib
import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm2_jax.commands import arguments
from lm2_jax.commands.trials import Trial, finished, last_step, make_trials, status_now
from lm2_jax.config import source
from lm2_jax.errors import UserError
from lm2_jax.report import perplexity_comparison
from lm2_jax.report import sweep as report
from lm2_jax.report.table import Table
from lm2_jax.runtime import children, files, locks, paths, phases, signals
from lm2_jax.runtime.console import Console, print_error
from lm2_jax.runtime.progress import Bar
from lm2_jax.runtime.queue import (
    DONE,
    ELSEWHERE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    Job,
    Queue,
    Start,
)
from lm2_jax.training import held_out
from lm2_jax.training.writers import read_lines

SECONDS_BETWEEN_LOOKS = 1.0


def sweep(trials: Sequence[Trial], names: Sequence[str], config: str, out: Path, at_once: int,
          start: Start, console: Console) -> tuple[Queue, int]:
    """Trains and evaluates the runs that are not done; writes the table after each of them.

    On SIGINT or SIGTERM the runs get SIGTERM, and this waits until they have saved and ended. A
    second signal ends the wait.

    Args:
      names: of all runs of the config; those that earlier sweeps trained in `out` are in the table.
      config: that was given to `lm2 sweep`.
      at_once: how many run at a time.
      start: starts a command; see `lm2_jax.runtime.queue.Queue`.

    Returns:
      The queue, and the signal that ended the sweep, or 0.
    """
    queue = Queue([trial.job for trial in trials], at_once, start)

    def write() -> None:
        try:
            report.write(out, config, _entries(trials, names, out))
        except OSError as error:  # the disk is full; the runs go on
            console.print(f"the table could not be written to {out}: {error.strerror}")

    write()
    with signals.collected() as caught, contextlib.closing(_Display(trials, console)) as display:
        while not queue.is_empty and len(caught.received) < 2:
            if caught.received and not queue.stopped:
                queue.stop()
                console.print("stopping; these save and end: "
                              + (", ".join(job.name for job in queue.of(RUNNING)) or "none"))
            changed = queue.advance()
            for job in changed:
                console.print(_line(job))
                _keep_log(job, out)
            if any(job.status in (DONE, STOPPED, FAILED) for job in changed):
                write()
            display.update()
            if not changed:
                caught.wait(SECONDS_BETWEEN_LOOKS)
    write()
    return queue, caught.received[0] if caught.received else 0


def _keep_log(job: Job, out: Path) -> None:
    """Copies the log of a job that has ended to a bucket."""
    if paths.in_bucket(out) and job.status in (DONE, STOPPED, FAILED) and job.log.exists():
        try:
            files.copy(job.log, out / job.log.name)
        except OSError as error:
            print_error(f"{job.log} was not copied to {out}: {error.strerror}")


def _entries(trials: Sequence[Trial], names: Sequence[str], out: Path) -> list[report.Entry]:
    """The runs of the queue and those that earlier sweeps left in `out`, by name and seed."""
    errors, known = report.read_errors(out), {(trial.name, trial.seed): trial for trial in trials}
    found = []
    for name in names:
        seeds = {int(match[1]) for path in out.glob("*_seed*")
                 if (match := re.fullmatch(re.escape(name) + r"_seed(\d+)", path.name))}
        seeds |= {seed for other, seed in [*known, *errors] if other == name}
        for seed in sorted(seeds):
            trial, workdir = known.get((name, seed)), out / f"{name}_seed{seed}"
            run = finished(workdir, trial.config if trial else None)
            status = DONE if run else trial.job.status if trial else STOPPED
            error = trial.job.error if trial else ""
            untried = not trial or status in (WAITING, ELSEWHERE)
            if not run and untried and (name, seed) in errors:  # those of another sweep
                status, error = FAILED, errors[name, seed]
            lines = read_lines(workdir / "metrics.jsonl")
            times = phases.read(workdir / phases.FILE) or {"seconds": {}}
            found.append(report.Entry(
                name, seed, status, lines[-1]["step"] if lines else 0,
                int(sum(line.get("tokens", 0) for line in lines)),
                sum(times["seconds"].values()), "" if run else error, run,
                tuple(perplexity_comparison.curve(lines, held_out.KEY))))
    return found


def _line(job: Job) -> str:
    """What is said of a change."""
    if job.status == RUNNING:
        return f"{job.name} starts; its output: {job.log}"
    if job.status == ELSEWHERE:
        return f"{job.name} is in use by another program; it is left for later"
    return f"{job.name} {job.status}" + (f": {job.error}" if job.error else "")


class _Display:
    """On a terminal a bar of the steps of all runs, with what runs and the time left."""

    def __init__(self, trials: Sequence[Trial], console: Console):
        self._trials, self._bar = trials, None
        if console.is_terminal:
            self._bar = Bar("sweep", sum(trial.config.train.num_steps for trial in trials),
                            sum(map(last_step, trials)), console, "steps")

    def update(self) -> None:
        if not self._bar:
            return
        steps = {trial: last_step(trial) for trial in self._trials}
        running = [f"{trial.job.name} {steps[trial] / trial.config.train.num_steps:.0%}"
                   for trial in self._trials if trial.job.status == RUNNING]
        done = sum(trial.job.status == DONE for trial in self._trials)
        self._bar.update(sum(steps.values()), "  ".join(
            [f"{done}/{len(self._trials)} runs done", *running]))

    def close(self) -> None:
        if self._bar:
            self._bar.close()


EPILOG = """The config is a Python file with a dictionary RUNS, whose keys are the names of the
runs, and get_config(NAME). Each run is trained and evaluated in OUT/NAME_seedS, with its output in
OUT/NAME_seedS.log; runs that are done are skipped, others resume. Several sweeps may work in one
OUT. On a GPU or TPU one run has the machine; on CPUs each has a core. Any key of the config may be
given for all runs as --config.KEY=VALUE."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER",
                        help="folder of the workdirs, sweep.md, sweep.json and the plots")
    parser.add_argument("--runs", default="", metavar="A,B", help="names of runs (all)")
    parser.add_argument("--seeds", default="0", metavar="0,1,2",
                        help="seeds of each run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=0, metavar="N",
                        help="runs at a time (one a core; 1 on a GPU or TPU)")
    parser.add_argument("--list", action="store_true", help="show the queue and do nothing")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    names, console, out = source.runs(args.config), Console(), paths.of(args.out)
    chosen = arguments.names(args.runs) or names
    for name in (name for name in chosen if name not in names):
        try:  # get_config may take more names than RUNS has
            source.read(source.find(args.config)[0], (name,))
        except UserError:
            raise UserError(f"--runs: {args.config} has no run {name}; its runs are "
                            f"{', '.join(names)}") from None
    names = list(dict.fromkeys([*names, *chosen]))
    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
    trials = make_trials(args.config, list(dict.fromkeys(chosen)), _seeds(args.seeds), out,
                         overrides)
    if args.list:
        rows = [[trial.name, str(trial.seed), status_now(trial), f"{last_step(trial):,}",
                 f"{trial.config.train.num_steps:,}"] for trial in trials]
        console.print(Table(["name", "seed", "status", "steps", "of"], [rows]).terminal())
        return 0
    locks.require_writable(out, "--out")
    shared = children.has_accelerators()
    cores = [] if shared else children.cores()
    at_once = args.jobs or (1 if shared else len(cores) or os.cpu_count() or 1)
    queue, ended_by = sweep(trials, names, args.config, out, at_once,
                            functools.partial(children.start, cores=cores), console)
    entries = _entries(trials, names, out)
    if report.evaluated(entries):
        console.print(report.names_table(entries).terminal("Exact match, %"))
    if measured := report.measured(entries):
        shown = perplexity_comparison.names_table(measured).fitting(
            console.width, *perplexity_comparison.LESS_IMPORTANT)
        console.print(shown.terminal("Held-out perplexity"))
    console.print(str(out / "sweep.md"))
    if ended_by:
        console.print(f"stopped; this command goes on: {_command(args, overrides)}")
        return 128 + ended_by
    return 1 if queue.of(FAILED, STOPPED) else 0


def _seeds(text: str) -> list[int]:
    parts = arguments.names(text)
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--seeds is {text!r}; it must be numbers from 0 on, as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def _command(args: argparse.Namespace, overrides: Mapping[str, str]) -> str:
    given = {"config": args.config, "out": args.out, "runs": args.runs, "seeds": args.seeds,
             "jobs": args.jobs or ""}
    given |= {f"config.{key}": value for key, value in overrides.items()}
    return shlex.join(["lm2", "sweep", *(f"--{key}={value}" for key, value in given.items()
                                         if value != "")])
