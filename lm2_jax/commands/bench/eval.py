"""`lm2 bench eval`."""

import argparse

from lm2_jax.bench import eval as evaluation
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--lengths", metavar="A,B", default="64k,1M,10M",
                        help="tokens of a context (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    evaluation.run(files.load_config(args.config, overrides), arguments.names(args.lengths))
    return 0
