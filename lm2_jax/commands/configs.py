"""`lm2 configs`: the configs that come with the package, and every key of a config."""

import argparse

from lm2_jax.config import reference, shipped
from lm2_jax.report.table import Table
from lm2_jax.runtime.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", action="store_true",
                        help="list every key of a config with its type, default and meaning")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    if args.keys:
        print(reference.help_text())
        return 0
    table = Table(("name", "what it is"), [shipped.shipped()], text_columns=2)
    Console().print(table.terminal("--config takes one of these names, or a file"))
    return 0
