"""The answers of an evaluation so far, so that one that was interrupted can be resumed."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lm2_jax.runtime import appended, paths
from lm2_jax.runtime.console import print_error

UNFINISHED = "unfinished.jsonl"  # its name in an evaluation's folder
Key = tuple[str, ...]  # what the answers are of: of BABILong's task, length, memory


class Journal:
    """Answers in the order of the prompts, in a file that exists until all are given.

    The first line is the identity of the evaluation. Every other line has the answers of one
    batch; lines from the first damaged one on are dropped, so that those prompts are answered
    again.

    Args:
      path: of the file; its folder is made if need be.
      identity: everything that the answers depend on, as JSON values. Answers that were given
        under another identity are dropped.
      adds: False = only read the answers, for processes beside the one that writes.
    """

    def __init__(self, path: str | Path, identity: object, adds: bool = True):
        self._path, self._file = paths.of(path), None
        self._answers: dict[Key, list[str]] = defaultdict(list)
        whole = appended.read(self._path).decode("utf-8", errors="replace").split("\n")[:-1]
        if not whole or whole[0] != json.dumps(identity):
            whole = [json.dumps(identity)]
        for number, line in enumerate(whole[1:], 2):
            try:
                task, length, memory, answers = json.loads(line)
                self._answers[task, length, memory] += [answer + "" for answer in answers]
            except (ValueError, TypeError):
                # Answers have no number but their place, so none after this line can be used.
                print_error(f"{self._path}: line {number} cannot be read; the answers from there "
                            "on are generated again")
                whole = whole[:number - 1]
                break
        if not adds:
            return
        # Written anew, so that no line follows one that a crash cut short.
        self._file = appended.Appended(
            self._path, "".join(line + "\n" for line in whole).encode())

    @property
    def resumes(self) -> bool:
        """Whether there are answers of an interrupted evaluation."""
        return any(self._answers.values())

    def answers(self, key: Key) -> list[str]:
        """The answers so far of what a key names."""
        return list(self._answers[key])

    def add(self, key: Key, answers: Iterable[str]) -> None:
        if self._file:
            self._file.write_all(json.dumps([*key, list(answers)]).encode() + b"\n")

    def __enter__(self):
        return self

    def __exit__(self, error, *_) -> None:
        """Removes the file if the evaluation is complete, which it is if there was no error."""
        if self._file:
            self._file.close()
        if self._file and error is None:
            appended.remove(self._path)
