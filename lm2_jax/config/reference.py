"""The documentation of every key, read from the source of the dataclasses.

`python -m lm2_jax.config.reference > configs/README.md` writes the page of all configs and keys.
"""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import NamedTuple

from lm2_jax.config import Config


class Key(NamedTuple):
    """A key of the config.

    Attributes:
      name: as on the command line, without `--config.`: "train.num_steps".
      type: "int", "float", "bool", "str", "tuple of str", ...
      default: its value where no config sets it.
      help: what it means, in a sentence.
    """

    name: str
    type: str
    default: object
    help: str


class Section(NamedTuple):
    """A group of keys: its name ("" for the top level), what it is about, and its own keys."""

    name: str
    help: str
    keys: tuple[Key, ...]


def sections(cls: type = Config, name: str = "") -> Iterator[Section]:
    """The sections of the config, each before those inside it."""
    helps, hints = attribute_docs(cls), typing.get_type_hints(cls)
    keys, inner = [], []
    for field in dataclasses.fields(cls):
        full_name, hint = f"{name}.{field.name}".lstrip("."), _without_none(hints[field.name])
        if dataclasses.is_dataclass(hint):
            inner.append((hint, full_name))
        else:
            keys.append(Key(full_name, _type_name(hint), field.default, helps[field.name]))
    yield Section(name, inspect.getdoc(cls), tuple(keys))
    for hint, full_name in inner:
        yield from sections(hint, full_name)


def attribute_docs(cls: type) -> dict[str, str]:
    """{attribute: the string below it, on one line} of a class."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    return {field.target.id: " ".join(below.value.value.split())
            for field, below in zip(body, body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)}


def help_text() -> str:
    """All keys as plain text, for `--help`."""
    return "\n".join(f"  --config.{key.name} ({key.type}, default {_shown(key.default)})\n"
                     f"      {key.help}" for section in sections() for key in section.keys)


def _without_none(hint):
    if not isinstance(hint, UnionType):
        return hint
    return next(arg for arg in typing.get_args(hint) if arg is not NoneType)


def _type_name(hint) -> str:
    args = typing.get_args(hint)
    return f"tuple of {_type_name(args[0])}" if args else hint.__name__


def _shown(value: object) -> str:
    return repr(value) if value != "" else "empty"
