"""The checkpoints of a workdir, one by one: listed, verified, deleted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lm2_jax.checkpoint import checksums, retention
from lm2_jax.checkpoint.folder import STEP_METADATA, CheckpointFolder
from lm2_jax.config import CheckpointConfig
from lm2_jax.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A checkpoint.

    Attributes:
      step: its number.
      saved_at: in seconds since 1970; None if that was not stored.
      bytes: of its arrays and its JSON object; None if it has no checksums.
      metrics: that were stored with it.
      kept_as: why the run keeps it; empty for one that the next save deletes.
    """

    step: int
    saved_at: float | None
    bytes: int | None
    metrics: retention.Metrics
    kept_as: Sequence[str]


def entries(folder: CheckpointFolder, config: CheckpointConfig) -> list[Entry]:
    """The whole checkpoints in ascending order; their contents are not read."""
    steps = folder.steps()
    metrics = {step: retention.stored_metrics(folder, step) for step in steps}
    kept = retention.reasons(config, steps, lambda step: metrics[step])
    return [Entry(step, saved_at(folder, step), _bytes(folder, step), metrics[step], kept[step])
            for step in steps]


def saved_at(folder: CheckpointFolder, step: int) -> float | None:
    """When a checkpoint was complete, in seconds since 1970; None if it is not known."""
    try:
        found = json.loads((folder.directory / str(step) / STEP_METADATA).read_text("utf-8"))
        return found["commit_timestamp_nsecs"] / 1e9
    except (OSError, ValueError, TypeError, KeyError):
        return None


def delete(folder: CheckpointFolder, steps: Sequence[int], force: bool = False) -> None:
    """Deletes checkpoints.

    Args:
      force: also the newest one that is intact.

    Raises:
      UserError: if there is no such step, or if the run would lose its newest intact checkpoint;
        nothing is deleted then.
    """
    there = folder.all_steps()
    if missing := [step for step in steps if step not in there]:
        raise UserError(f"{folder.directory} has no checkpoint of step {missing[0]}; it has "
                        + (", ".join(map(str, there)) or "none"))
    newest, _ = folder.newest_valid_step()
    if newest in steps and not force:
        raise UserError(f"step {newest} is the newest checkpoint that is intact, from which the "
                        "run resumes; --force deletes it all the same")
    for step in steps:
        folder.remove_step(step)


def _bytes(folder: CheckpointFolder, step: int) -> int | None:
    try:
        listed = json.loads((folder.directory / str(step) / checksums.FILE).read_text("utf-8"))
        return sum(size for size, _ in listed.values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
