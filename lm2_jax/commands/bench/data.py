"""`lm2 bench data`."""

import argparse

from lm2_jax.bench import data
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--seconds", type=float, default=10.0,
                        help="how long to measure (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    data.run(files.load_config(args.config, overrides), args.seconds)
    return 0
