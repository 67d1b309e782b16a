"""The runs of a sweep: what they are trained with, where, and how far they are."""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm2_jax.commands.report import CHANGE_NO_RESULT, read_run
from lm2_jax.config import Config, files, with_vocab_size
from lm2_jax.errors import UserError
from lm2_jax.eval import babilong, perplexity_evaluator
from lm2_jax.report.comparison import Run
from lm2_jax.runtime import appended, locks
from lm2_jax.runtime import files as files_of_runs
from lm2_jax.runtime.queue import DONE, RUNNING, Job

TAIL = 8192  # bytes of metrics.jsonl in which its last line is looked for


@dataclass(frozen=True)
class Trial:
    """A run of the sweep.

    Attributes:
      config: that it is trained and evaluated with.
      workdir: where.
      job: the command that does it.
    """

    name: str
    seed: int
    config: Config
    workdir: Path
    job: Job


def make_trials(config: str, names: Sequence[str], seeds: Sequence[int], out: Path,
                overrides: Mapping[str, str]) -> list[Trial]:
    """The runs of a sweep in the order of its queue: all names with the first seed, then the next.

    Raises:
      UserError: if a config cannot be used.
    """
    if "seed" in overrides:
        raise UserError("--config.seed sets one seed for all runs; give seeds as --seeds=0,1,2")
    trials = []
    for seed in seeds:
        for name in names:
            loaded = files.load_config(f"{config}:{name}", {**overrides, "seed": str(seed)})
            empty = perplexity_evaluator.empty_key(loaded) and babilong.empty_key(loaded.eval)
            if empty or "carried" not in loaded.eval.memory:
                raise UserError(f"{empty or 'eval.memory'} of {name} leaves no results with the "
                                "memory carried, so that there is nothing to compare")
            workdir = out / f"{name}_seed{seed}"
            command = [sys.executable, "-m", "lm2_jax.cli", "train", f"--config={config}:{name}",
                       f"--workdir={workdir}", f"--config.seed={seed}",
                       *(f"--config.{key}={value}" for key, value in overrides.items())]
            log = files_of_runs.scratch(out, once=True) / f"{workdir.name}.log"
            job = Job(workdir.name, command, log,
                      is_done=functools.partial(_is_done, workdir, loaded),
                      is_free=functools.partial(_is_free, workdir))
            trials.append(Trial(name, seed, loaded, workdir, job))
    return trials


def finished(workdir: Path, config: Config | None = None) -> Run | None:
    """The results of a run that is trained and evaluated to its end; None if it is not.

    Args:
      config: that they must be of; None = the one that the workdir has.
    """
    try:
        run = read_run(workdir)
        wanted = with_vocab_size(config, run.config.model.vocab_size) if config else run.config
    except (OSError, ValueError):  # what is missing or damaged is made anew
        return None
    same = not files.differences(run.config, wanted, ignore=CHANGE_NO_RESULT)
    whole = (run.rows or babilong.empty_key(wanted.eval)) and not run.unfinished
    return run if same and whole and run.step == wanted.train.num_steps else None


def _is_done(workdir: Path, config: Config) -> bool:
    return finished(workdir, config) is not None


def _is_free(workdir: Path) -> bool:
    return not locks.holder(workdir)


def last_step(trial: Trial) -> int:
    """The last step of a run, as the end of metrics.jsonl says."""
    if trial.job.status == DONE:
        return trial.config.train.num_steps
    try:
        return json.loads(appended.tail(trial.workdir / "metrics.jsonl", TAIL).split(b"\n")[-2]
                          )["step"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def status_now(trial: Trial) -> str:
    """The status of a run of which this process has started nothing."""
    if trial.job.is_done():
        trial.job.status = DONE
    elif not trial.job.is_free():
        trial.job.status = RUNNING
    return trial.job.status
