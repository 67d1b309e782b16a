"""Every key of a config, and what the loading of one says when it is refused."""

import dataclasses
import typing
from pathlib import Path

import pytest

from lm2_jax.config import Config
from lm2_jax.config.files import load_config

FOLDER = Path(__file__).parents[1] / "configs"
TINY = FOLDER / "tiny.py"


def leaves(config=None, prefix=""):
    """(key, type, value) of every key that is not a group."""
    config = Config() if config is None else config
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], value


LEAVES = list(leaves())
KEYS = [key for key, _, _ in LEAVES]


def refusal(overrides, path=TINY):
    with pytest.raises(ValueError) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message
