"""Keys of earlier versions: stored configs still load, and a user's file is told what changed."""

import copy
from typing import Any, NamedTuple

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
    "model.embedding_std": Removed("embeddings begin with a standard deviation of "
                                   "1 / sqrt(model.embed_dim)"),
    "model.memory.key_init_scale": Removed("W_k begins as twice W_q"),
    "model.memory.input_gate_bias": Removed("the input gate begins with a bias of 0"),
    "model.memory.key_order": Removed("the DPFP feature map has order 3", only=3),
    "data.min_sentence_tokens": Removed("background sentences have at least 4 tokens", only=4),
    "data.num_threads": Removed("one thread prepares batches; data.num_workers adds processes"),
    "train.segment_unroll": Removed("the scan over segments is unrolled on CPUs"),
    "train.advance_patience": Removed("only train.advance_accuracy ends a stage early", only=0),
    "train.advance_batches": Removed("held-out accuracy is measured on 4 batches", only=4),
    # Never released; some of configs/results were trained with it.
    "train.window_from": Removed("train.window_from_segments hides the window from short rows"),
    "train.tensorboard": Removed("TensorBoard events are always written"),
}


class Renamed(NamedTuple):
    """A key that has another name in this version, and perhaps other names of its values."""

    key: str
    values: dict[str, str] = {}


RENAMED = {
    "eval.asking": Renamed("eval.prompt_style", {"tuned": "fine_tuned", "prompted": "instruct"}),
}

# What the models of earlier versions did, of keys that these did not have.
BEFORE = {
    "model.memory.write": "paper",
    "model.memory.coupled_gates": False,
    "model.memory.gates_see_slot": False,
    "model.memory.slot_keys": False,
}

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
            group, last = _group(values, new.key)
            group[last] = new.values.get(value, value)
    for key, (now, only) in REMOVED.items():
        value = _pop(values, key)
        if only is not ANY and value not in (_MISSING, only):
            raise KeyRefused(key, f"{key} is {value!r}, which an earlier version offered; now "
                                  f"{now}")
    for key, value in BEFORE.items():
        group, last = _group(values, key)
        group.setdefault(last, value)
    return values


def explain(key: str) -> str | None:
    """What became of a key of an earlier version, in one sentence; None if it never was one."""
    if key in RENAMED:
        new = RENAMED[key]
        values = ", ".join(f"{old!r} is now {value!r}" for old, value in new.values.items())
        return f"{key} is now called {new.key}" + (f" ({values})" if values else "")
    if key in REMOVED:
        return f"{key} was removed: {REMOVED[key].now}; leave it out"
    return None


def _group(values: dict, key: str) -> tuple[dict, str]:
    """The dict that a key is in, and the key's last part."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    return values, last


def _pop(values: dict, key: str) -> Any:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent) or {}
    return values.pop(last, _MISSING)
