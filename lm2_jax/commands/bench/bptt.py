"""`lm2 bench bptt`."""

import argparse

from lm2_jax.bench import bptt
from lm2_jax.commands import arguments
from lm2_jax.errors import UserError

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topology", default="v5e:4x4", metavar="NAME",
                        help="a TPU slice (it needs jax[tpu]) or cpu:8 (%(default)s)")
    parser.add_argument("--segments", default="8,16", metavar="A,B",
                        help="numbers of segments to compile (%(default)s)")
    parser.add_argument("--memory", type=float, metavar="GB",
                        help="of a device, in place of the topology's, to estimate another device")
    parser.add_argument("--quick", action="store_true", help="compile with the least effort")
    arguments.add_out(parser, "bptt")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    if not all(name.isdecimal() for name in arguments.names(args.segments)):
        raise UserError(f"--segments is {args.segments!r}; it must be numbers, as 8,16")
    bptt.run(args.config, overrides, args.topology,
             list(map(int, arguments.names(args.segments))), args.out, args.memory, args.quick)
    return 0
