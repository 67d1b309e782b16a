"""`lm2 bench roofline`."""

import argparse

from lm2_jax.bench import roofline
from lm2_jax.commands import arguments

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--topologies", metavar="A,B",
                        default="v5e:4x4,v5e:16x16,v5p:4x4x4,v6e:8x8",
                        help="TPU slices (they need jax[tpu]) or cpu:8 (%(default)s)")
    parser.add_argument("--variants", metavar="FILE",
                        help='JSON: [{"name": "..", "config": {"model.remat": "dots"}, '
                             '"topologies": ["v5e:4x4"]}, ..]; by default every model.remat and '
                             "train.remat_segments")
    parser.add_argument("--quick", action="store_true",
                        help="compile with the least effort, in a seventh of the time: memory "
                             "traffic can be a quarter more")
    arguments.add_out(parser, "roofline")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    variants = (roofline.read_variants(args.variants) if args.variants
                else roofline.remat_variants())
    roofline.run(args.config, overrides, variants, arguments.names(args.topologies), args.out,
                 args.quick)
    return 0
