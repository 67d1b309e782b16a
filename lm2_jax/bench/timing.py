"""Times of calls."""

import time
from collections.abc import Callable


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that calls `work`, which waits for its results, and returns the seconds
    that it took."""
    def call() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return call
