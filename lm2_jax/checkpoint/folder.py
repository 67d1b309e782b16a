"""The folder of a run's checkpoints: which steps it holds, and which of them are intact."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from lm2_jax.checkpoint import checksums
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import files, paths
from lm2_jax.runtime.buckets import BucketPath

PARAMS, TRAINING, META = PARTS = "params", "training", "meta"
COMMIT_MARKER = "commit_success.txt"  # orbax writes it last, into each part and into the step
STEP_METADATA = "_CHECKPOINT_METADATA"  # orbax writes it into the step
DAMAGED = ".damaged"  # suffix of a step that was renamed
# Unfinished saves; earlier versions of lm2_jax used the first two suffixes.
TEMPORARY = re.compile(r"\d+(\.saving|\.deleting|\.orbax-checkpoint-tmp)")
REMOVAL_ATTEMPTS = 50


class CheckpointFolder:
    """`workdir/checkpoints`: a folder for each step, with checksums of its files.

    In a bucket, where no folder can be renamed as a whole, a step counts as soon as it has the
    marker that is written last, and it loses this marker first when it is deleted.

    Args:
      log: receives each line for the user; None = they go to stderr.

    Raises:
      UserError: if `workdir` cannot hold checkpoints: a path with special characters.
    """

    def __init__(self, workdir: str | Path, log: Callable[[str], None] | None = None):
        self.directory = paths.for_checkpoints(workdir).absolute() / "checkpoints"
        self._log = log or (lambda line: print(line, file=sys.stderr))

    def steps(self) -> list[int]:
        """The steps that are complete, in ascending order; their contents are not verified."""
        return [step for step in self.all_steps() if not self._missing_file(step, PARTS)]

    def all_steps(self) -> list[int]:
        """All steps that have a folder, complete or not, in ascending order; in a bucket only
        those with the marker, since a save that was interrupted looks like any other."""
        if isinstance(self.directory, BucketPath):
            return sorted(int(marker.parent.name) for marker in self._markers())
        return sorted(int(folder.name) for folder in self.directory.glob("[0-9]*")
                      if folder.name.isdecimal() and folder.is_dir())

    def newest_valid_step(self, parts: Iterable[str] = PARTS, step: int | None = None
                          ) -> tuple[int, list[str]]:
        """Verifies the checksums of the newest step, then of the one before it, until one is
        valid.

        Reads all files of the parts. When several processes share the folder, call it in one of
        them.

        Args:
          step: the only step to consider; None = all.

        Returns:
          The step, 0 if there is none, and a line for each problem that was found.
        """
        damaged, steps = [], self.all_steps()
        for candidate in reversed(steps) if step is None else [step]:
            folder = self.directory / str(candidate)
            problem = self._find_problem(candidate, parts)
            if problem and not folder.exists():  # deleted meanwhile, by the run that saves here
                continue
            if problem and self.all_steps() != steps:  # being deleted, as there is a newer one
                return self.newest_valid_step(parts, step)
            if problem:
                damaged.append(f"{folder} is damaged: {problem}")
                continue
            lines = [f"{line}; using step {candidate} instead" for line in damaged]
            if not self._has_checksums(folder):
                lines.append(f"{folder} is not verified: it was saved without checksums")
            return candidate, lines
        if step is not None and damaged:
            valid = [other for other in steps if not self._find_problem(other, parts)]
            damaged = [f"{damaged[0]}; valid steps: {', '.join(map(str, valid)) or 'none'}"]
        return 0, damaged

    def select_step(self, step: int | None = None, parts: Iterable[str] = PARTS,
                    required: bool = True) -> int:
        """Returns `step` if its checkpoint is valid; without `step`, the newest valid one. Logs
        which steps are damaged.

        Args:
          required: False = return 0 if there is no checkpoint at all.

        Raises:
          UserFileNotFoundError: if there is no checkpoint and one is required.
          UserError: if `step` does not exist or is damaged, or if all steps are damaged.
        """
        steps, workdir = self.all_steps(), self.directory.parent
        if step is not None and steps and step not in steps:
            raise UserError(f"{workdir} has no checkpoint of step {step}; it has "
                            + ", ".join(map(str, steps)))
        found, lines = self.newest_valid_step(parts, step)
        if found:
            for line in lines:
                self._log(line)
        elif lines:
            raise UserError("; ".join(lines) + ("" if step is not None else (
                ". No other step exists; restore one from a backup, or train from the start in "
                "another --workdir")))
        elif required:
            raise UserFileNotFoundError(f"{workdir} holds no checkpoint; train first: "
                                        f"lm2 train --config=... --workdir={workdir}")
        return found

    def rename_steps_after(self, step: int) -> None:
        """Renames all later steps to STEP.damaged, so that these steps can be saved again.

        `select_step` found them damaged. Does nothing on processes other than the first.
        """
        if jax.process_index() == 0:
            for other in self.all_steps():
                if other > step:
                    self._rename_damaged(other)

    def find_problem(self, step: int) -> str | None:
        """Reads all files of a step; describes what is wrong, None if they are as they were saved.

        A step that was saved without checksums cannot be verified, which counts as a problem.
        """
        if problem := self._find_problem(step, PARTS):
            return problem
        return None if self._has_checksums(self.directory / str(step)) else "has no checksums"

    def remove_step(self, step: int) -> None:
        """Deletes a step; one whose deletion is interrupted is not among the steps any more."""
        folder = self.directory / str(step)
        if not isinstance(folder, BucketPath):
            leaving = folder.with_name(f"{step}.deleting")  # matches TEMPORARY
            files.rename_folder(folder, leaving)
            folder = leaving
        files.remove_folder(folder, COMMIT_MARKER)

    def _markers(self) -> list[Path]:
        return [path for path in self.directory.rglob(COMMIT_MARKER)
                if path.parent.parent == self.directory and path.parent.name.isdecimal()]

    def _missing_file(self, step: int, parts: Iterable[str]) -> str | None:
        """The first file that every complete checkpoint has and this one does not."""
        markers = (f"{part}/{COMMIT_MARKER}" for part in parts)
        return next((name for name in (STEP_METADATA, *markers, COMMIT_MARKER)
                     if not (self.directory / str(step) / name).is_file()), None)

    def _find_problem(self, step: int, parts: Iterable[str]) -> str | None:
        """Describes what is wrong with a step's files; None if they are intact or cannot be
        verified."""
        folder, parts = self.directory / str(step), tuple(parts)
        if missing := self._missing_file(step, parts):
            return f"{missing} is missing"
        if not self._has_checksums(folder):
            return None
        return checksums.find_problem(folder, None if set(parts) == set(PARTS) else parts)

    def _has_checksums(self, folder: Path) -> bool:
        """Whether the step was saved with checksums; the first versions of lm2_jax wrote none."""
        try:
            return (folder / checksums.FILE).exists() or (
                checksums.FILE.encode() in (folder / STEP_METADATA).read_bytes())
        except OSError:
            return True

    def _rename_damaged(self, step: int) -> None:
        folder, number = self.directory / str(step), 1
        while (new := folder.with_name(f"{step}{DAMAGED}" + f".{number}" * (number > 1))).exists():
            number += 1
        files.rename_folder(folder, new, COMMIT_MARKER)
        self._log(f"renamed {folder} to {new.name}")

    def _remove_temporary(self) -> None:
        """Removes unfinished saves.

        Threads of a save that failed may still be writing, hence the attempts; what they leave
        behind is removed by the next call.
        """
        if isinstance(self.directory, BucketPath):
            complete = set(self.all_steps())
            found = {path.relative_to(self.directory).parts[0] for path
                     in self.directory.rglob("*")}
            with contextlib.suppress(OSError):  # orbax removes them before it saves there
                for name in found:
                    if name.isdecimal() and int(name) not in complete:
                        files.remove_folder(self.directory / name)
            return
        for _ in range(REMOVAL_ATTEMPTS):
            found = [path for path in self.directory.iterdir() if TEMPORARY.match(path.name)]
            if not found:
                return
            for folder in found:
                files.remove_folder(folder)
            time.sleep(0.01)

    def _clear_incomplete_steps(self, keep: int) -> None:
        """Renames or removes incomplete steps, which orbax would count among those to keep.

        Those older than the newest `keep` complete steps were left by an interrupted deletion.
        """
        complete = self.steps()
        for step in self.all_steps():
            if step in complete:
                continue
            if len(complete) >= keep and step < complete[-keep]:
                files.remove_folder(self.directory / str(step), COMMIT_MARKER)
            else:
                self._rename_damaged(step)
