"""What an evaluation has answered so far, so that one that was stopped goes on where it was."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import replacing

UNFINISHED = "unfinished.jsonl"  # its name in an evaluation's folder
Key = tuple[str, str, str]  # task, length, memory


class Journal:
    """Answers in the order of the prompts, in a file that is there until all are given.

    Args:
      path: of the file; its folder is made if need be.
      identity: of model, samples and settings: answers of another evaluation do not count.
      adds: False = only to read what was given before, beside the process that writes.
    """

    def __init__(self, path: str | Path, identity: str, adds: bool = True):
        self._path, self._file = Path(path), None
        self._answers: dict[Key, list[str]] = defaultdict(list)
        whole = []
        if self._path.exists():
            whole = self._path.read_text("utf-8", errors="replace").split("\n")[:-1]
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
        # Written anew, so that a line cut short by a crash is gone before others follow it.
        with replacing(self._path) as partial:
            partial.write_text("".join(line + "\n" for line in whole), "utf-8")
        self._file = open(self._path, "a", encoding="utf-8", buffering=1)

    @property
    def begun(self) -> bool:
        """Whether there are answers."""
        return any(self._answers.values())

    def answers(self, key: Key) -> list[str]:
        """Those given so far."""
        return list(self._answers[key])

    def add(self, key: Key, answers: Iterable[str]) -> None:
        if self._file:
            self._file.write(json.dumps([*key, list(answers)]) + "\n")

    def __enter__(self):
        return self

    def __exit__(self, error, *_) -> None:
        """Left without an error, all is answered: the file goes."""
        if self._file:
            self._file.close()
        if self._file and error is None:
            self._path.unlink()
