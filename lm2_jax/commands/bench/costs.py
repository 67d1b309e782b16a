"""`lm2 bench costs`."""

import argparse

from lm2_jax.bench import costs
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--lengths", metavar="A,B", default="4k,16k,64k,128k",
                        help="tokens of a context (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help="measurements of each work (%(default)s)")
    arguments.add_out(parser, "costs")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    costs.run(files.load_config(args.config, overrides), args.config,
              arguments.names(args.lengths), args.repeats, args.out)
    return 0
