"""`lm2 bench`."""

import argparse

from lm2_jax.bench import costs, data, decode
from lm2_jax.bench import eval as evaluation
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.errors import UserError
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP
LENGTHS = {"eval": "64k,1M,10M", "costs": "4k,16k,64k,128k"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("data", "eval", "costs", "decode"),
                        help="what to measure")
    arguments.add_config(parser, required=False)
    parser.add_argument("--workdir", help="decode: folder of a run, in place of --config")
    parser.add_argument("--seconds", type=float, default=10.0,
                        help="data: how long to measure (%(default)s)")
    parser.add_argument("--lengths", metavar="A,B",
                        help=f"eval, costs: tokens of a context ({LENGTHS['eval']} for eval, "
                             f"{LENGTHS['costs']} for costs)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help="costs, decode: measurements of each work (%(default)s)")
    parser.add_argument("--batches", default="1,8", metavar="A,B",
                        help="decode: rows that are generated together (%(default)s)")
    parser.add_argument("--prompt", type=int, default=128, metavar="N",
                        help="decode: tokens of a prompt (%(default)s)")
    parser.add_argument("--new", type=int, default=64, metavar="N",
                        help="decode: tokens to generate after each (%(default)s)")
    parser.add_argument("--out", metavar="FOLDER",
                        help="costs, decode: folder of the tables and their numbers (costs, "
                             "decode)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    out = args.out or args.what
    if args.what == "decode" and args.workdir:
        if args.config or overrides:
            raise UserError("lm2 bench decode measures --workdir or --config, not both")
        decode.run(None, args.workdir, _counts(args.batches), args.prompt, args.new, args.repeats,
                   out)
        return 0
    if not args.config or args.workdir:
        raise UserError(f"lm2 bench {args.what} needs --config"
                        + (" or --workdir" if args.what == "decode" else " and takes no --workdir"))
    config = files.load_config(args.config, overrides)
    if args.what == "decode":
        decode.run(config, None, _counts(args.batches), args.prompt, args.new, args.repeats, out)
        return 0
    if args.what == "data":
        data.run(config, args.seconds)
        return 0
    lengths = arguments.names(LENGTHS[args.what] if args.lengths is None else args.lengths)
    if args.what == "eval":
        evaluation.run(config, lengths)
    else:
        costs.run(config, args.config, lengths, args.repeats, out)
    return 0


def _counts(text: str) -> list[int]:
    if not all(name.isdecimal() for name in arguments.names(text)):
        raise UserError(f"--batches is {text!r}; it must be numbers, as 1,8")
    return list(map(int, arguments.names(text)))
