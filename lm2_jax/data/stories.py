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
    """Stories of one task: `draw(rng, points)` returns one.

    Attributes:
      task: "qa1".
      draw: (rng, points) -> Story; `points` asks the simulator for that many question points
        (None = as many as a bAbI story has) and says nothing to a file.
    """

    task: str
    draw: Callable[[np.random.Generator, int | None], Story]


def simulated(task: str, seed: int, *, persons: int = 0, per_point: int = 1) -> StorySource:
    """The simulator's stories of a seed.

    Args:
      persons: the first so many of the task's; 0 = all.
      per_point: questions asked at each question point.
    """
    def draw(rng: np.random.Generator, points: int | None) -> Story:
        return simulator.simulate(task, seed, int(rng.integers(MAX_INDEX)), points=points,
                                  per_point=per_point, persons=persons or None)

    return StorySource(task, draw)


def from_files(task: str, folder: str, split: str) -> StorySource:
    """The stories of a bAbI file; `split` is "train" or "test"."""
    stories = _parse(str(babi.find_file(folder, task, split)))
    return StorySource(task, lambda rng, points: stories[int(rng.integers(len(stories)))])


@functools.lru_cache(maxsize=64)
def _parse(path: str) -> list[Story]:
    return babi.parse(path)
