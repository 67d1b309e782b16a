"""`lm2 bench`."""

import argparse

from lm2_jax.bench import costs, data
from lm2_jax.bench import eval as evaluation
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP
LENGTHS = {"eval": "64k,1M,10M", "costs": "4k,16k,64k,128k"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("data", "eval", "costs"), help="what to measure")
    arguments.add_config(parser)
    parser.add_argument("--seconds", type=float, default=10.0,
                        help="data: how long to measure (%(default)s)")
    parser.add_argument("--lengths", metavar="A,B",
                        help=f"eval, costs: tokens of a context ({LENGTHS['eval']} for eval, "
                             f"{LENGTHS['costs']} for costs)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help="costs: measurements of each work (%(default)s)")
    parser.add_argument("--out", default="costs", metavar="FOLDER",
                        help="costs: folder of costs.md, costs.json and costs.png (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    config = files.load_config(args.config, overrides)
    if args.what == "data":
        data.run(config, args.seconds)
        return 0
    lengths = arguments.names(LENGTHS[args.what] if args.lengths is None else args.lengths)
    if args.what == "eval":
        evaluation.run(config, lengths)
    else:
        costs.run(config, args.config, lengths, args.repeats, args.out)
    return 0
