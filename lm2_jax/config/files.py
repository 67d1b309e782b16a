"""Reads config files and overrides into `Config`: the only reader of ConfigDicts."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import types
import typing
from pathlib import Path

from ml_collections import ConfigDict

from lm2_jax.config import Config, legacy
from lm2_jax.errors import UserError, UserFileNotFoundError


def load_config(path: str | Path, overrides: dict[str, object] | None = None) -> Config:
    """The config that `get_config()` of a Python file returns, with overrides.

    Args:
      path: a file that defines `get_config() -> ml_collections.ConfigDict`, or FILE:WORD for
        what its `get_config("WORD")` returns. Keys that it does not set have the defaults of
        `lm2_jax.config`.
      overrides: {"train.num_steps": 20}; strings are parsed as the key's type asks.

    Raises:
      FileNotFoundError, ValueError: in one line, with the key, its value and what is right.
    """
    path, given = Path(path), ()
    if not path.is_file() and ".py:" in path.name:
        name, _, word = path.name.partition(":")
        path, given = path.with_name(name), (word,)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserFileNotFoundError(
            f"no config file {path}; in its folder: {', '.join(near) or '-'}")
    module_spec = importlib.util.spec_from_file_location("lm2_config_" + path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(); a config file defines it")
    try:
        inspect.signature(module.get_config).bind(*given)
    except TypeError:
        wrong = f"takes no word, and was given {given[0]}" if given else \
            "needs a word: give the config as FILE:WORD"
        raise UserError(f"{path}: get_config {wrong}") from None
    config = module.get_config(*given)
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, "
                         "not an ml_collections.ConfigDict")
    values = config.to_dict()
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return from_dict(values)


def from_dict(values: dict) -> Config:
    """A validated Config of a nested dict (as `to_dict` gives it)."""
    return _build(Config, values, "")


def from_stored(values: dict) -> Config:
    """A validated Config of what `to_dict` gave in this or an earlier version."""
    return from_dict(legacy.upgrade(values))


def to_dict(config: Config) -> dict:
    """A nested dict of plain values, as JSON stores it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(config: Config) -> dict[str, object]:
    """{"model.memory.num_slots": 16, ...}"""
    def walk(values, prefix):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(walk(to_dict(config), ""))


def changed(config: Config) -> dict[str, object]:
    """The keys whose values are not the defaults, flat."""
    default = flat(Config())
    return {key: value for key, value in flat(config).items() if default.get(key) != value}


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """One line for each key that differs: "model.embed_dim: 128 -> 64"."""
    a, b = flat(old), flat(new)
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key) and not key.startswith(ignore)]


def _override(values: dict, key: str, value) -> None:
    *parents, last = key.split(".")
    for i, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"{key}: {'.'.join(parents[:i + 1])} is a value, not a group of keys")
    values[last] = value


def _build(cls, values, prefix: str):
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')} is {values!r}; it must be a group of keys")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            if gone := legacy.explain(f"{prefix}{key}"):
                raise UserError(gone)
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else "known: " + ", ".join(fields)
            raise UserError(f"unknown key {prefix}{key} (value {values[key]!r}); {hint}")
    return cls(**{key: _convert(hints[key], value, prefix + key)
                  for key, value in values.items()})


def _convert(hint, value, key: str):
    """`value` as the annotation says; strings from the command line are parsed."""
    if isinstance(hint, types.UnionType):
        if value in (None, "None", "none"):
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, key + ".")
    if typing.get_origin(hint) is tuple:
        return _tuple(hint, value, key)
    if hint is str and isinstance(value, str | Path):
        return str(value)
    if isinstance(value, str) and hint is not str:
        value = {"true": True, "false": False}.get(value.lower(), value)
        value = _literal(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not hint:
        raise UserError(f"{key} is {value!r}, {type(value).__name__}; it must be {hint.__name__}")
    return value


def _tuple(hint, value, key: str) -> tuple:
    args = typing.get_args(hint)
    if isinstance(value, str):
        # Names need no quotes: "qa1,qa2"; nor do lengths become numbers: "96,192".
        names = args[0] is str and not value.startswith(("(", "[", "'", '"'))
        parsed = None if names else _literal(value)
        value = parsed if isinstance(parsed, tuple | list) else \
            tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, tuple | list):
        raise UserError(f"{key} is {value!r}; it must be a tuple")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise UserError(f"{key} is {value!r}; it must have {len(kinds)} entries")
    return tuple(_convert(kind, item, f"{key}[{i}]")
                 for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _literal(value):
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
