"""`lm2 bench attention`."""

import argparse

from lm2_jax.bench import attention
from lm2_jax.commands import arguments
from lm2_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--implementations", default="xla,chunked", metavar="A,B",
                        help="values of model.attention_implementation (%(default)s)")
    parser.add_argument("--lengths", default="128,256,512,1024,2048", metavar="A,B",
                        help="numbers of tokens, and of slots (%(default)s)")
    for name, value, what in (("heads", 8, "heads"), ("head-dim", 64, "size of a head"),
                              ("rows", 1, "rows of the batch"), ("repeats", 5, "measurements")):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N",
                            help=f"{what} (%(default)s)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"),
                        help="of queries, keys and values (%(default)s)")
    arguments.add_out(parser, "attention")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    if not all(name.isdecimal() for name in arguments.names(args.lengths)):
        raise UserError(f"--lengths is {args.lengths!r}; it must be numbers, as 256,1024")
    attention.run(list(map(int, arguments.names(args.lengths))),
                  arguments.names(args.implementations), args.heads, args.head_dim, args.rows,
                  args.dtype, args.repeats, args.out)
    return 0
