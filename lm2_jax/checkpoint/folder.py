"""The folder of a run's checkpoints: which are there, which are as they were written."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from lm2_jax.checkpoint import checksums
from lm2_jax.errors import UserError, UserFileNotFoundError

PARAMS, TRAINING, META = PARTS = "params", "training", "meta"
LAST_FILE = "commit_success.txt"  # that orbax writes into a part, and into the whole
ABOUT = "_CHECKPOINT_METADATA"  # that orbax writes into the whole
TRIES = 50
SAVING, DELETING, DAMAGED = ".saving", ".deleting", ".damaged"  # behind a step
LEFT_BEHIND = re.compile(r"\d+(\.saving|\.deleting|\.orbax-checkpoint-tmp)")


class CheckpointFolder:
    """`workdir/checkpoints`: a folder for each step, with checksums of its files.

    Args:
      say: is given each line for the user; None = to stderr.
    """

    def __init__(self, workdir: str | Path, say: Callable[[str], None] | None = None):
        self.directory = Path(workdir).resolve() / "checkpoints"
        self._say = say or (lambda line: print(line, file=sys.stderr))

    def steps(self) -> list[int]:
        """The steps that have all their parts, rising; their files are not looked at."""
        return [step for step in self._candidates() if not self._lacks(step, PARTS)]

    def newest_good(self, parts: Iterable[str] = PARTS, step: int | None = None
                    ) -> tuple[int, list[str]]:
        """The newest step whose files are as they were written, and a line on each problem.

        Reads all files of the parts; where many processes share the folder, one can do it for
        all.

        Args:
          step: the only one to consider; None = all.

        Returns:
          Step 0 if there is none: without lines if there is no checkpoint at all.
        """
        bad, candidates = [], self._candidates()
        for candidate in reversed(candidates) if step is None else [step]:
            folder = self.directory / str(candidate)
            problem = self._problem(candidate, parts)
            if problem and not folder.exists():  # replaced by newer ones in the meantime
                continue
            if problem:
                bad.append(f"{folder} is damaged: {problem}")
                continue
            lines = [f"{line}; step {candidate} is taken instead" for line in bad]
            if not self._has_checksums(folder):
                lines.append(f"{folder} is not verified: it was saved without checksums")
            return candidate, lines
        if step is not None and bad:
            good = [other for other in candidates if not self._problem(other, parts)]
            bad = [f"{bad[0]}; the good ones: {', '.join(map(str, good)) or 'none'}"]
        return 0, bad

    def choose(self, step: int | None = None, parts: Iterable[str] = PARTS,
               required: bool = True) -> int:
        """The step asked for, or the newest good one; says which are damaged.

        Args:
          required: False = 0 if there is no checkpoint at all.

        Raises:
          FileNotFoundError: if there is none, but one is required.
          ValueError: if that step is not there, or damaged, or if all are.
        """
        candidates, workdir = self._candidates(), self.directory.parent
        if step is not None and candidates and step not in candidates:
            raise UserError(f"{workdir} has no checkpoint of step {step}; it has "
                             + ", ".join(map(str, candidates)))
        found, lines = self.newest_good(parts, step)
        if found:
            for line in lines:
                self._say(line)
        elif lines:
            raise UserError("; ".join(lines) + ("" if step is not None else (
                ". There is no other; put one back from a copy, or train from the start in "
                "another --workdir")))
        elif required:
            raise UserFileNotFoundError(f"{workdir} holds no checkpoint; train first: "
                                    f"lm2 train --config=... --workdir={workdir}")
        return found

    def set_aside_after(self, step: int) -> None:
        """Renames the steps after the one taken, which are damaged, so that theirs can be saved
        again."""
        if jax.process_index() == 0:
            for other in self._candidates():
                if other > step:
                    self._set_aside(other)

    def _candidates(self) -> list[int]:
        """All steps that have a folder, rising."""
        return sorted(int(folder.name) for folder in self.directory.glob("[0-9]*")
                      if folder.name.isdecimal() and folder.is_dir())

    def _unfinished(self, step: int) -> Path:
        return self.directory / f"{step}{SAVING}"

    def _lacks(self, step: int, parts: Iterable[str]) -> str | None:
        """The first file that every checkpoint has and this one does not."""
        last_files = (f"{part}/{LAST_FILE}" for part in parts)
        return next((name for name in (ABOUT, *last_files, LAST_FILE)
                     if not (self.directory / str(step) / name).is_file()), None)

    def _problem(self, step: int, parts: Iterable[str]) -> str | None:
        """What is wrong with a step's files; None if nothing is, or if that is not known."""
        folder, parts = self.directory / str(step), tuple(parts)
        if lacks := self._lacks(step, parts):
            return f"{lacks} is missing"
        if not self._has_checksums(folder):
            return None
        return checksums.problem(folder, None if set(parts) == set(PARTS) else parts)

    def _has_checksums(self, folder: Path) -> bool:
        """Whether it had them when it was saved: earlier versions wrote none."""
        try:
            return (folder / checksums.FILE).exists() or (
                checksums.FILE.encode() in (folder / ABOUT).read_bytes())
        except OSError:
            return True

    def _set_aside(self, step: int) -> None:
        folder, number = self.directory / str(step), 1
        while (new := folder.with_name(f"{step}{DAMAGED}" + f".{number}" * (number > 1))).exists():
            number += 1
        folder.rename(new)
        self._say(f"{folder} is now {new.name}")

    def _clean(self) -> None:
        """Removes what saves and removals that were cut short left behind.

        A save that has failed may still be writing; what it leaves is removed the next time.
        """
        for _ in range(TRIES):
            left = [path for path in self.directory.iterdir() if LEFT_BEHIND.match(path.name)]
            if not left:
                return
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.01)
