"""`lm2 bench memory`."""

import argparse

from lm2_jax.bench import memory
from lm2_jax.commands import arguments
from lm2_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="128,256,512", metavar="A,B",
                        help="each is the number of tokens, slots and channels (%(default)s)")
    for name, value, what in (("heads", 8, "heads of LM2's memory"), ("rows", 4, "of the batch"),
                              ("repeats", 10, "measurements of each")):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N",
                            help=f"{what} (%(default)s)")
    parser.add_argument("--torch-python", default="", metavar="PATH",
                        help="a Python with torch, in which the authors' module is measured")
    arguments.add_out(parser, "memory")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    if not all(name.isdecimal() for name in arguments.names(args.sizes)):
        raise UserError(f"--sizes is {args.sizes!r}; it must be numbers, as 128,256")
    memory.run(list(map(int, arguments.names(args.sizes))), args.heads, args.rows,
               args.torch_python, args.repeats, args.out)
    return 0
