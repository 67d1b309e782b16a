"""`lm2 checkpoints`: lists, verifies and deletes the checkpoints of a run."""

import argparse
import datetime

from lm2_jax.checkpoint import inventory
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.folder import CheckpointFolder
from lm2_jax.config import CheckpointConfig
from lm2_jax.errors import UserError
from lm2_jax.report.table import Table
from lm2_jax.runtime import locks, paths
from lm2_jax.runtime.console import Console

EPILOG = """A checkpoint is kept while it is one of the newest checkpoint.keep, a multiple of
checkpoint.keep_every, or one of the checkpoint.keep_best by checkpoint.best_metric."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of the run")
    parser.add_argument("--verify", action="store_true",
                        help="read every file and compare it with its checksum; the exit status is "
                             "1 if one differs")
    parser.add_argument("--delete", metavar="STEP[,STEP...]", help="delete these checkpoints")
    parser.add_argument("--force", action="store_true",
                        help="delete also the checkpoint from which the run would resume")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    workdir = paths.of(args.workdir)
    folder, config = CheckpointFolder(workdir), workdirs.stored_config(workdir).checkpoint
    if args.delete:
        with locks.locked(workdir, "lm2 checkpoints --delete"):
            inventory.delete(folder, _steps(args.delete), args.force)
    return 0 if show(folder, config, args.verify) else 1


def show(folder: CheckpointFolder, config: CheckpointConfig, verify: bool = False,
         console: Console | None = None) -> bool:
    """Prints a line for each checkpoint; returns False if one is not intact.

    Args:
      verify: whether to read the files and compare them with their checksums.
    """
    found = {entry.step: entry for entry in inventory.entries(folder, config)}
    rows, intact = [], True
    for step in folder.all_steps():
        entry = found.get(step)
        problem = None if entry else "is not complete"
        if verify and entry:
            problem = folder.find_problem(step)
        intact &= problem is None
        facts = _facts(entry, config.best_metric) if entry else ("-", "-", "-", "")
        rows.append([str(step), *facts, problem or ("verified" if verify else "complete")])
    table = Table(("step", "saved", "GB", config.best_metric, "kept as", "state"), [rows],
                  text_columns=6)
    (console or Console()).print(
        table.terminal(str(folder.directory)) if rows else f"{folder.directory} has no checkpoint")
    return intact


def _facts(entry: inventory.Entry, metric: str) -> tuple[str, str, str, str]:
    when = "-" if entry.saved_at is None else datetime.datetime.fromtimestamp(
        entry.saved_at).strftime("%Y-%m-%d %H:%M:%S")
    return (when, "-" if entry.bytes is None else f"{entry.bytes / 1e9:.3f}",
            f"{entry.metrics[metric]:.4g}" if metric in entry.metrics else "-",
            ", ".join(entry.kept_as))


def _steps(text: str) -> list[int]:
    try:
        return [int(step) for step in text.split(",")]
    except ValueError:
        raise UserError(f"--delete is {text!r}; it must be steps as 400 or 400,800") from None
