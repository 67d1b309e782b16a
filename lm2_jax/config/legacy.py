"""Keys of earlier versions: stored configs still load, and a user's file is told what changed."""

import copy
from typing import NamedTuple

from lm2_jax.config.checks import KeyRefused

ANY = object()  # every value of a removed key gives the results that this version gives


class Removed(NamedTuple):
    """A key that this version does not have.

    Attributes:
      now: what takes its place, as the end of a sentence.
      only: the one value that this version implements, or ANY if the key never changed what a
        trained model or the rest of its training does.
    """

    now: str
    only: object = ANY


REMOVED = {
    "model.scan_unroll": Removed("the scan over blocks is unrolled on CPUs"),
    "train.segment_unroll": Removed("the scan over segments is unrolled on CPUs"),
}
RENAMED: dict[str, str] = {}
"""{full name of before: full name of now}"""

_MISSING = object()


def upgrade(stored: dict) -> dict:
    """A stored config (nested, as `files.to_dict` gives it) with this version's keys.

    Raises:
      KeyRefused: if a removed key has a value whose results this version cannot give.
    """
    values = copy.deepcopy(stored)
    for old, new in RENAMED.items():
        value = _pop(values, old)
        if value is not _MISSING:
            *parents, last = new.split(".")
            group = values
            for parent in parents:
                group = group.setdefault(parent, {})
            group[last] = value
    for key, (now, only) in REMOVED.items():
        value = _pop(values, key)
        if only is not ANY and value not in (_MISSING, only):
            raise KeyRefused(key, f"{key} is {value!r}, which an earlier version offered; now "
                                  f"{now}")
    return values


def explain(key: str) -> str | None:
    """What became of a key of an earlier version, in one sentence; None if it never was one."""
    if key in RENAMED:
        return f"{key} is now called {RENAMED[key]}"
    if key in REMOVED:
        return f"{key} was removed: {REMOVED[key].now}; leave it out"
    return None


def _pop(values: dict, key: str) -> object:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent) or {}
    return values.pop(last, _MISSING)
