"""`lm2 bench`."""

import argparse

from lm2_jax.bench import data
from lm2_jax.bench import eval as evaluation
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("data", "eval"), help="what to measure")
    arguments.add_config(parser)
    parser.add_argument("--seconds", type=float, default=10.0,
                        help="data: how long to measure (%(default)s)")
    parser.add_argument("--lengths", default="64k,1M,10M", metavar="A,B",
                        help="eval: tokens of the samples (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    config = files.load_config(args.config, overrides)
    if args.what == "data":
        data.run(config, args.seconds)
    else:
        evaluation.run(config, arguments.names(args.lengths))
    return 0
