"""Where stories come from: the simulator, or real bAbI files."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.data.babi import files as babi
from lm2_jax.data.babi.files import Story
from lm2_jax.data.babi.simulator import tasks as simulator
from lm2_jax.errors import UserError, UserFileNotFoundError

MAX_INDEX = 2**62
KEPT_BACK = 20


@dataclass(frozen=True)
class StorySource:
    """Stories of one task.

    Attributes:
      task: "qa1".
      draw: (rng, points, per_point, turns) -> Story; asks the simulator for so many question points
        and questions at each (None = as many as a bAbI story has), and for persons who act in
        turns; a file's stories are as they are.
      content: a digest of the file; "" if there is none.
      asked: what sample 0, 1, 2, ... asks, as a story and the number of its question; () = any.
    """

    task: str
    draw: Callable[..., Story]
    content: str = ""
    asked: tuple[tuple[Story, int], ...] = ()


def simulated(task: str, seed: int, *, persons: int = 0) -> StorySource:
    """The simulator's stories of a seed, with the first `persons` of the task's; 0 = all."""
    def draw(rng: np.random.Generator, points: int | None = None,
             per_point: int | None = None, turns: bool = False) -> Story:
        return simulator.simulate(task, seed, int(rng.integers(MAX_INDEX)), points=points,
                                  per_point=per_point, persons=persons or None,
                                  turns=turns)

    return StorySource(task, draw)


def from_files(task: str, folder: str, split: str) -> StorySource:
    """The stories of a bAbI file.

    Args:
      split: "train" or "test"; "validation" for those of the train file that "train" leaves out,
        one in KEPT_BACK (of a file of fewer stories none is left out).
    """
    name = "train" if split == "validation" else split
    file = babi.find_file(folder, task, name)
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    stories = _parse(str(file), content)
    if split != "test" and len(stories) >= KEPT_BACK:
        stories = [story for number, story in enumerate(stories)
                   if (number % KEPT_BACK == 0) == (split == "validation")]
    return StorySource(task, lambda rng, *_: stories[int(rng.integers(len(stories)))], content)


def asked_in_turn(task: str, folder: str, split: str, path: str | Path) -> StorySource:
    """The stories of a bAbI file, of which sample i asks question number index[i] of the file.

    Args:
      path: a JSON file {"qa1": [indices from 0], ...}, such as BABILong's test_100_idxs.json; of
        a task that it does not name any question is asked.

    Raises:
      FileNotFoundError, ValueError: the file is not of the form, or has an index of the task that
        is out of range.
    """
    source, file = from_files(task, folder, split), babi.find_file(folder, task, split)
    questions = [(story, number) for story in _parse(str(file), source.content)
                 for number in range(len(story.questions))]
    indices = _indices(Path(path), task)
    beyond = [index for index in indices if index >= len(questions)]
    if beyond:
        raise UserError(f"{path}: {task} has index {beyond[0]}, but {file} has questions 0 to "
                         f"{len(questions) - 1}")
    return dataclasses.replace(source, asked=tuple(questions[index] for index in indices))


def _indices(path: Path, task: str) -> list[int]:
    if not path.is_file():
        raise UserFileNotFoundError(f"no file of indices {path} (eval.indices)")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(tasks, dict):
        raise UserError(f"{path} must hold an object with a list of indices for each task")
    if task not in tasks:
        return []
    indices = tasks[task]
    if not (isinstance(indices, list) and indices
            and all(type(index) is int and index >= 0 for index in indices)):
        raise UserError(f"{path}: {task} must have a list of whole numbers from 0")
    return indices


@functools.lru_cache(maxsize=64)
def _parse(path: str, content: str) -> list[Story]:
    """The stories of a file; `content`, its digest, is a part of the cache's key."""
    return babi.parse(path)
