"""`lm2 bench device`."""

import argparse

from lm2_jax.bench import device
from lm2_jax.bench.measures import SCALES
from lm2_jax.commands import arguments
from lm2_jax.errors import UserError

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="lm2_1b7",
                        help="of the model with a memory; its backbone is measured too "
                             "(%(default)s)")
    parser.add_argument("--minutes", type=float, default=6.0, metavar="N",
                        help="for everything; what does not fit is not run (%(default)s)")
    parser.add_argument("--scale", default="full", choices=list(SCALES),
                        help="tiny has small shapes, to try the command on a CPU (%(default)s)")
    parser.add_argument("--pieces", default="", metavar="A,B",
                        help="pieces to measure, by name; by default all")
    arguments.add_out(parser, "device")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    if args.minutes <= 0:
        raise UserError(f"--minutes is {args.minutes:g}; it must be above 0")
    chosen = arguments.names(args.pieces)
    results = device.run(args.config, overrides, args.scale, args.minutes, args.out, chosen)
    return 1 if any(result.status == device.FAILED for result in results) else 0
