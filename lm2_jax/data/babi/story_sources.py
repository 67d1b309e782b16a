"""Sources of stories: the simulator, or bAbI files."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm2_jax.data.babi import files
from lm2_jax.data.babi.simulator import tasks as simulator
from lm2_jax.data.babi.story import Story
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

MAX_INDEX = 2**62
VALIDATION_EVERY = 20


@dataclass(frozen=True)
class StorySource:
    """A source of stories of one task.

    Attributes:
      task: "qa1".
      draw: (rng, points, per_point, turns) -> Story. The last three are those of
        `simulator.simulate`; None or absent means as in the bAbI files. Stories of a file ignore
        them.
      content: the SHA-256 of the file; "" for the simulator.
      selected: the question of sample 0, 1, 2, ... as a story and the number of its question; ()
        if samples take any question of any story.
    """

    task: str
    draw: Callable[..., Story]
    content: str = ""
    selected: tuple[tuple[Story, int], ...] = ()


def simulated(task: str, seed: int, *, persons: int = 0) -> StorySource:
    """Returns the simulator's stories of a seed, with the first `persons` persons; 0 for all."""
    def draw(rng: np.random.Generator, points: int | None = None,
             per_point: int | None = None, turns: bool = False) -> Story:
        return simulator.simulate(task, seed, int(rng.integers(MAX_INDEX)), points=points,
                                  per_point=per_point, persons=persons or None,
                                  turns=turns)

    return StorySource(task, draw)


def from_files(task: str, folder: str, split: str) -> StorySource:
    """Returns the stories of a bAbI file.

    Args:
      split: "train", "validation" or "test". One story of the train file in VALIDATION_EVERY is
        for validation, the others are for training; a file with fewer stories is used for both.
    """
    file = files.find_file(folder, task, "train" if split == "validation" else split)
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    stories = _parse(str(file), content)
    if split != "test" and len(stories) >= VALIDATION_EVERY:
        stories = [story for number, story in enumerate(stories)
                   if (number % VALIDATION_EVERY == 0) == (split == "validation")]
    return StorySource(task, lambda rng, *_: stories[int(rng.integers(len(stories)))], content)


def from_indices(task: str, folder: str, split: str, path: str | Path) -> StorySource:
    """Returns the stories of a bAbI file, with the questions that a file of indices selects.

    Args:
      path: a JSON file {"qa1": [indices], ...} such as BABILong's test_100_idxs.json. Sample i
        takes question index[i] of the bAbI file, counted from 0 over all its stories. A task
        without a key has no selected questions.

    Raises:
      UserFileNotFoundError: there is no such file.
      UserError: the file has the wrong form, or an index is out of range.
    """
    source, file = from_files(task, folder, split), files.find_file(folder, task, split)
    questions = [(story, number) for story in _parse(str(file), source.content)
                 for number in range(len(story.questions))]
    indices = _indices(paths.of(path), task)
    beyond = [index for index in indices if index >= len(questions)]
    if beyond:
        raise UserError(f"{path}: {task} has index {beyond[0]}, but {file} has questions 0 to "
                        f"{len(questions) - 1}")
    return dataclasses.replace(source, selected=tuple(questions[index] for index in indices))


def _indices(path: Path, task: str) -> list[int]:
    if not path.is_file():
        raise UserFileNotFoundError(f"no file of indices {path} (eval.indices)")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
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
    """Parses a file once for each `content`, its SHA-256."""
    return files.parse(path)
