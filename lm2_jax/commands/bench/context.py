"""`lm2 bench context`."""

import argparse

from lm2_jax.bench import context
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="backbone_10m:lm2",
                        help="a Python file with get_config(), or the name of a shipped config "
                             "(%(default)s)")
    parser.add_argument("--lengths", metavar="A,B", default="4k,16k,64k,128k,1M",
                        help="tokens of a context (%(default)s)")
    parser.add_argument("--models", metavar="A,B", default=",".join(context.MODELS),
                        help="what to measure (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N",
                        help="measurements of contexts that take less than a minute (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10, metavar="N",
                        help="that reading a context may take (%(default)s)")
    parser.add_argument("--out", metavar="FOLDER", default="context",
                        help="folder of the table, its numbers and its plot; measurements that it "
                             "has are kept (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    context.run(files.load_config(args.config, overrides), arguments.names(args.lengths),
                arguments.names(args.models), args.repeats, args.minutes, args.out)
    return 0
