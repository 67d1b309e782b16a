"""`lm2 bench compile`."""

import argparse

from lm2_jax.bench import compiling
from lm2_jax.commands import arguments
from lm2_jax.config import files

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topology", default="cpu:8", metavar="NAME",
                        help="a TPU slice as v5e:4x4 (needs jax[tpu]), or cpu:8 (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N",
                        help="compilations of each step (%(default)s)")
    arguments.add_out(parser, "compile")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compiling.run(files.load_config(args.config, overrides), args.config, args.topology,
                  args.repeats, args.out)
    return 0
