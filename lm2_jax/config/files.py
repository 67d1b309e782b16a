"""Reads config files and overrides into `Config`, and writes a `Config` as plain values."""

import ast
import copy
import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path

from lm2_jax.config import Config, legacy, source
from lm2_jax.config.checks import KeyRefused
from lm2_jax.config.shipped import shipped as shipped
from lm2_jax.config.source import Unset
from lm2_jax.errors import UserError


def load_config(path: str | Path, overrides: Mapping[str, object] | None = None) -> Config:
    """Loads a config file and applies overrides.

    Args:
      path: a file that defines `get_config() -> ml_collections.ConfigDict`, or the name of a
        config that comes with the package, such as "quickstart"; FILE:ARGUMENT calls
        `get_config("ARGUMENT")`. Keys that the file does not set have the defaults of
        `lm2_jax.config`.
      overrides: {"train.num_steps": 20}; strings are parsed according to the type of the key.
        `eval.lengths` without `eval.max_samples` takes `eval.num_samples` at all of them.

    Raises:
      FileNotFoundError, ValueError: in one line, with the key, its value and what would be right,
        and the file and line if the file is wrong.
    """
    path, arguments = source.find(path)
    in_file = source.read(path, arguments)
    values = copy.deepcopy(in_file)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    if overrides and "eval.lengths" in overrides and "eval.max_samples" not in overrides:
        values["eval"].pop("max_samples", None)  # it belongs to the lengths of the file
    try:
        return from_dict(values)
    except KeyRefused as error:
        line = source.line_of_key(path, error.key)
        if line and _refused(in_file) == str(error):
            raise UserError(f"{path}:{line}: {error}") from None
        raise


def _refused(values: dict) -> str:
    """Why the values are refused as they are; "" if they are not."""
    try:
        from_dict(values)
    except KeyRefused as error:
        return str(error)
    return ""


def from_dict(values: dict) -> Config:
    """A validated Config from a nested dict, as `to_dict` returns it."""
    return _build(Config, values, "")


def from_stored(values: dict) -> Config:
    """A validated Config from what `to_dict` returned in this or an earlier version."""
    return from_dict(legacy.upgrade(values))


def to_dict(config: Config) -> dict:
    """A nested dict of plain values, as it is stored in JSON."""
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
    """{key: value} of the keys whose values are not the defaults."""
    default = flat(Config())
    return {key: value for key, value in flat(config).items() if default.get(key) != value}


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """One line for each key that differs: "model.embed_dim: 128 -> 64".

    Keys that change nothing for the kind of memory that both configs have are left out.
    """
    a, b = flat(old), flat(new)
    unused = set(old.model.memory.unused) & set(new.model.memory.unused)
    ignore += tuple(f"model.memory.{key}" for key in sorted(unused))
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key) and not key.startswith(ignore)]


def _override(values: dict, key: str, value) -> None:
    *parents, last = key.split(".")
    for i, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            group = ".".join(parents[:i + 1])
            raise KeyRefused(key, f"{key}: {group} is a value, not a group of keys")
    values[last] = value


def _build(cls, values, prefix: str):
    if not isinstance(values, dict):
        key = prefix.rstrip(".")
        raise KeyRefused(key, f"{key} is {values!r}; it must be a group of keys")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            if gone := legacy.explain(f"{prefix}{key}"):
                raise KeyRefused(f"{prefix}{key}", gone)
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else "known: " + ", ".join(fields)
            raise KeyRefused(f"{prefix}{key}",
                             f"unknown key {prefix}{key} (value {values[key]!r}); {hint}")
    return cls(**{key: _convert(hints[key], value, prefix + key)
                  for key, value in values.items()})


def _convert(hint, value, key: str):
    """The value with the annotated type; strings, as from the command line, are parsed."""
    if value is Unset:
        raise KeyRefused(key, f"{key} is a placeholder that is not set; give it as "
                              f"--config.{key}=VALUE")
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
        value = float(value) if abs(value) < 2**1023 else math.inf
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not hint:
        raise KeyRefused(key, f"{key} is {value!r}, {type(value).__name__}; it must be "
                              f"{hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise KeyRefused(key, f"{key} is {value!r}; it must be a finite number")
    return value


def _tuple(hint, value, key: str) -> tuple:
    args = typing.get_args(hint)
    if isinstance(value, str):
        # Names need no quotes ("qa1,qa2"), and lengths stay strings ("96,192").
        names = args[0] is str and not value.startswith(("(", "[", "'", '"'))
        parsed = None if names else _literal(value)
        value = parsed if isinstance(parsed, tuple | list) else \
            tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, tuple | list):
        raise KeyRefused(key, f"{key} is {value!r}; it must be a tuple")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise KeyRefused(key, f"{key} is {value!r}; it must have {len(kinds)} entries")
    return tuple(_convert(kind, item, f"{key}[{i}]")
                 for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _literal(value):
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
