"""`lm2 bench decode`."""

import argparse

from lm2_jax.bench import decode
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.errors import UserError
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser, required=False)
    parser.add_argument("--workdir", help="folder of a run, in place of --config")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help="measurements of each number of rows (%(default)s)")
    parser.add_argument("--batches", default="1,8", metavar="A,B",
                        help="rows that are generated together (%(default)s)")
    parser.add_argument("--prompt", type=int, default=128, metavar="N",
                        help="tokens of a prompt (%(default)s)")
    parser.add_argument("--new", type=int, default=64, metavar="N",
                        help="tokens to generate after each (%(default)s)")
    parser.add_argument("--torch-python", metavar="PATH", default="",
                        help="a Python with torch and transformers, whose Llama is measured too")
    arguments.add_out(parser, "decode")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    if args.workdir and (args.config or overrides):
        raise UserError("lm2 bench decode measures --workdir or --config, not both")
    if not args.workdir and not args.config:
        raise UserError("lm2 bench decode needs --config or --workdir")
    config = files.load_config(args.config, overrides) if args.config else None
    decode.run(config, args.workdir, _counts(args.batches), args.prompt, args.new, args.repeats,
               args.out, args.torch_python)
    return 0


def _counts(text: str) -> list[int]:
    if not all(name.isdecimal() for name in arguments.names(text)):
        raise UserError(f"--batches is {text!r}; it must be numbers, as 1,8")
    return list(map(int, arguments.names(text)))
