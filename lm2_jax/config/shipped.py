"""The configs that come with the package: their names, docstrings and commands."""

import ast
import itertools
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where the configs of this package are: in it if it is installed, else in the checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def shipped() -> list[tuple[str, str]]:
    """(name, first line of the docstring) of every config that comes with the package."""
    return [(path.stem, docstring(path).partition("\n")[0])
            for path in sorted(folder().glob("*.py"))]


def docstring(path: Path) -> str:
    """The docstring of a config file, which is not run."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")), clean=False) or ""
    return text.strip()


def command(path: Path) -> str:
    """The command in a config's docstring: its first indented lines."""
    _, _, *lines = docstring(path).splitlines()
    indented = itertools.takewhile(lambda line: line.startswith("    "), lines)
    return "\n".join(line.removeprefix("    ") for line in indented)
