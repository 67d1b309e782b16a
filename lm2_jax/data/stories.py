"""Where stories come from: the simulator, or real bAbI files."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm2_jax.data import babi, simulator
from lm2_jax.data.babi import Story

MAX_INDEX = 2**62


@dataclass(frozen=True)
class StorySource:
    """Stories of one task.

    Attributes:
      task: "qa1".
      draw: (rng, points, per_point) -> Story; asks the simulator for so many question points
        (None = as many as a bAbI story has) and questions at each (1 by default); a file's
        stories are as they are.
    """

    task: str
    draw: Callable[..., Story]


def simulated(task: str, seed: int, *, persons: int = 0) -> StorySource:
    """The simulator's stories of a seed, with the first `persons` of the task's; 0 = all."""
    def draw(rng: np.random.Generator, points: int | None = None, per_point: int = 1) -> Story:
        return simulator.simulate(task, seed, int(rng.integers(MAX_INDEX)), points=points,
                                  per_point=per_point, persons=persons or None)

    return StorySource(task, draw)


def from_files(task: str, folder: str, split: str) -> StorySource:
    """The stories of a bAbI file; `split` is "train" or "test"."""
    stories = _parse(str(babi.find_file(folder, task, split)))
    return StorySource(task, lambda rng, *_: stories[int(rng.integers(len(stories)))])


@functools.lru_cache(maxsize=64)
def _parse(path: str) -> list[Story]:
    return babi.parse(path)
