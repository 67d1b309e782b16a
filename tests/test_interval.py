"""A save by time comes at one step for all processes, whichever of them is ahead."""

import random

import pytest

from lm2_jax.runtime import interval, processes
from lm2_jax.runtime.interval import Interval


class Now:
    def __init__(self, monkeypatch):
        self.value = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.value)


def test_one_process_ends_it_once_the_time_is_over(monkeypatch):
    now = Now(monkeypatch)
    found = Interval(10.0)
    ended = []
    for step in range(1, 9):
        now.value += 3.0
        if found.has_ended(step):
            ended.append(step)
            found.restart()
    assert ended == [4, 8]
    assert not Interval(0.0).has_ended(1)


@pytest.mark.parametrize("seed", range(20))
def test_all_processes_end_it_at_one_step(monkeypatch, seed):
    """Each runs ahead of the others as far as it may: its metrics are those of the step before."""
    now, values, index = Now(monkeypatch), {}, [0]
    monkeypatch.setattr("jax.process_count", lambda: 3)
    monkeypatch.setattr(processes, "is_primary", lambda: index[0] == 0)
    monkeypatch.setattr(processes, "announce", values.__setitem__)
    monkeypatch.setattr(processes, "announced", values.get)
    intervals = []
    for _ in range(3):
        monkeypatch.setattr(interval, "_numbers", iter(range(99)))
        intervals.append(Interval(10.0))
    rng, decided, ended = random.Random(seed), [0, 0, 0], [None] * 3
    while not all(ended):
        # The step s is decided with the metrics of s - 1, for which all have dispatched s - 1, so
        # decided about s - 2.
        able = [i for i in range(3) if not ended[i] and decided[i] + 1 - 2 <= min(decided)]
        index[0] = rng.choice(able)
        now.value += rng.random()
        decided[index[0]] += 1
        if intervals[index[0]].has_ended(decided[index[0]]):
            ended[index[0]] = decided[index[0]]
    assert len(set(ended)) == 1
