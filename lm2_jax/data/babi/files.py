"""Reads the files of the bAbI tasks, version 1.2."""

import re
from pathlib import Path

from lm2_jax.data.babi.story import Question, Story
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

_TASK_OF_NAME = re.compile(r"(qa(?:[1-9]|1\d|20))_")


def find_file(folder: str | Path, task: str, split: str) -> Path:
    """Returns the file of a task ("qa1") and split ("train" or "test") in `folder`.

    Raises:
      UserFileNotFoundError: there is no such file.
      UserError: there are several.
    """
    pattern = f"{task}_*_{split}.txt"
    found = sorted(paths.of(folder).glob(pattern))
    if not found:
        raise UserFileNotFoundError(
            f"no {pattern} in {folder}: give the folder of the bAbI files (such as en-10k), "
            "a task of qa1..qa20 (kv has no file) and the split train or test"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"more than one {pattern} in {folder} ({names}): keep one")
    return found[0]


def parse(path: str | Path) -> list[Story]:
    """Reads a bAbI file. Its name must begin with the task, as in "qa1_".

    Raises:
      UserFileNotFoundError: there is no such file.
      UserError: the name or a line has the wrong form; the message names the line.
    """
    path = paths.of(path)
    named = _TASK_OF_NAME.match(path.name)
    if not named:
        raise UserError(f"{path}: the name must begin with the task, such as qa1_ (qa1..qa20)")
    if not path.is_file():
        raise UserFileNotFoundError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found {error.reason}") from None

    task = named[1]
    stories: list[Story] = []
    builder: _StoryBuilder | None = None
    for number, line in enumerate(lines, start=1):
        try:
            line_id, body = _split_id(line)
            if line_id == 1:
                if builder:
                    stories.append(builder.story(task))
                builder = _StoryBuilder()
            if builder is None or line_id != builder.num_lines + 1:
                expected = f"{builder.num_lines + 1}, or 1 for a new story" if builder else "1"
                raise UserError(f"expected ID {expected}, found {line_id}")
            builder.add(line_id, body)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if builder is None:
        raise UserError(f"{path}: the file is empty, expected lines of the form 'ID FACT.'")
    return [*stories, builder.story(task)]


def _split_id(line: str) -> tuple[int, str]:
    head, blank, body = line.partition(" ")
    if not (blank and re.fullmatch("[0-9]{1,9}", head) and body.strip()):
        raise UserError(
            f"expected 'ID FACT.' or 'ID QUESTION?<TAB>ANSWER<TAB>SUPPORT IDS', found {line!r}"
        )
    return int(head), body


class _StoryBuilder:
    """Collects the lines of one story."""

    def __init__(self) -> None:
        self.num_lines = 0
        self.facts: list[str] = []
        self.questions: list[Question] = []
        self.fact_of_id: dict[str, int] = {}

    def add(self, line_id: int, body: str) -> None:
        if "\t" in body:
            self.questions.append(self._question(body))
        elif body.rstrip().endswith("."):
            self.fact_of_id[str(line_id)] = len(self.facts)
            self.facts.append(body.strip())
        else:
            raise UserError(f"expected a fact that ends with '.', found {body!r}")
        self.num_lines = line_id

    def _question(self, body: str) -> Question:
        fields = [field.strip() for field in body.split("\t")]
        if len(fields) != 3 or not all(fields) or not fields[0].endswith("?"):
            raise UserError(f"expected 'QUESTION?<TAB>ANSWER<TAB>SUPPORT IDS', found {body!r}")
        text, answer, ids = fields
        for name in ids.split():
            if name not in self.fact_of_id:
                raise UserError(
                    f"expected support IDs of earlier facts of the story, found {name}"
                )
        support = tuple(self.fact_of_id[name] for name in ids.split())
        return Question(text, answer, support, len(self.facts))

    def story(self, task: str) -> Story:
        return Story(task, tuple(self.facts), tuple(self.questions))
