"""Config files: Python files that define `get_config() -> ml_collections.ConfigDict`.

A mistake in one is told in one line that names the file and the line.
"""

import ast
import contextlib
import importlib.util
import inspect
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from lm2_jax.config import shipped
from lm2_jax.errors import UserError, UserFileNotFoundError


class Unset:
    """The value of a key that is an ml_collections placeholder and is not set."""


def find(name: str | Path) -> tuple[Path, tuple[str, ...]]:
    """The file of FILE, FILE:ARGUMENT, NAME or NAME:ARGUMENT, and the arguments of get_config.

    NAME is a config that comes with the package, such as quickstart.

    Raises:
      FileNotFoundError: in one line, with the names of the configs that there are.
    """
    if Path(name).is_file():
        return Path(name), ()
    file, colon, argument = str(name).partition(".py:")
    if colon:
        path = Path(file + ".py")
    else:
        file, colon, argument = str(name).partition(":")
        path = Path(file)
    arguments = (argument,) if colon else ()
    known = shipped.folder() / f"{file}.py"
    if not path.is_file() and path.name == file and known.is_file():
        path = known
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserFileNotFoundError(
            f"no config file {path}; in its folder: {', '.join(beside) or '-'}; by name: "
            + ", ".join(name for name, _ in shipped.shipped()))
    return path, arguments


def read(path: Path, arguments: tuple[str, ...]) -> dict:
    """What get_config(*arguments) of the file returns, as a nested dict; see `Unset`."""
    with _told_in_one_line(path):
        loaded = module(path)
        if not hasattr(loaded, "get_config"):
            raise UserError(f"{path} has no get_config(); a config file defines it")
        try:
            inspect.signature(loaded.get_config).bind(*arguments)
        except TypeError:
            wrong = f"takes no argument, and was given {arguments[0]}" if arguments else \
                "needs an argument: give the config as FILE:ARGUMENT"
            raise UserError(f"{path}: get_config {wrong}") from None
        config = loaded.get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, "
                        "not an ml_collections.ConfigDict")
    return _values(config)


def runs(name: str | Path) -> list[str]:
    """The names of the runs of a config file, in order: the keys of its dictionary RUNS.

    Args:
      name: of the file or the config, as for `find`. `get_config` takes each of the names.

    Raises:
      UserError: the file has no RUNS, or `name` has an argument.
    """
    path, arguments = find(name)
    if arguments:
        raise UserError(f"--config={name} names one run; give the file alone, and the names of "
                        f"runs as --runs={arguments[0]}")
    with _told_in_one_line(path):
        found = getattr(module(path), "RUNS", None)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} has no dictionary RUNS, whose keys are the names of the runs "
                        "(configs/ablations.py is an example)")
    return list(map(str, found))


def module(path: Path) -> types.ModuleType:
    """Runs a config file; also for a config that begins from another one, which is beside it."""
    spec = importlib.util.spec_from_file_location("lm2_config_" + path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; the name of a config file ends in .py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@contextlib.contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """Turns what a config file raises into a UserError that names the file and the line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        what = f"{type(error).__name__}: {text}".splitlines()[0]
        raise UserError(f"{path}{_line_of_error(error, path)}: {what}") from error


def _values(config: ConfigDict) -> dict:
    values = {}
    for key, value in config.items(preserve_field_references=True):
        if isinstance(value, FieldReference):
            try:
                value = value.get()
            except RequiredValueError:
                value = None
            value = Unset if value is None else value
        values[key] = _values(value) if isinstance(value, ConfigDict) else value
    return values


def line_of_key(path: Path, key: str) -> int | None:
    """The line of a config file that sets a key; None if there is no such line, or several."""
    wanted = key.partition("[")[0].split(".")
    found: dict[int, set[int]] = {}  # lines, by how many parts of the key they have
    for parts, line in _assignments(ast.parse(path.read_text("utf-8")), []):
        pairs = zip(reversed(parts), reversed(wanted), strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(wanted)))
        if same:
            found.setdefault(same, set()).add(line)
    best = found[max(found)] if found else set()
    return best.pop() if len(best) == 1 else None


def _assignments(node: ast.AST, parts: list[str]) -> Iterator[tuple[list[str], int]]:
    """(["model", "memory", "kind"], line) of everything in a file that may set a key."""
    if isinstance(node, ast.Assign):
        parts = [part.attr for part in reversed(list(ast.walk(node.targets[0])))
                 if isinstance(part, ast.Attribute)]
        if parts:
            yield parts, node.lineno
        yield from _assignments(node.value, parts)
    elif isinstance(node, ast.keyword) and node.arg:
        yield [*parts, node.arg], node.lineno
        yield from _assignments(node.value, [*parts, node.arg])
    elif isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            inner = parts
            if isinstance(name, ast.Constant):
                inner = [*parts, str(name.value)]
                yield inner, name.lineno
            yield from _assignments(value, inner)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _assignments(child, parts)


def _line_of_error(error: Exception, path: Path) -> str:
    """":LINE", the innermost line of the file that raised the error; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    places: list[tuple[str | None, int | None]] = [(f.filename, f.lineno) for f in frames]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    lines = [line for file, line in places if file == str(path.absolute())]
    return f":{lines[-1]}" if lines else ""
