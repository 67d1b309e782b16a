"""`lm2 bench step`.

The step of a Llama of ten million parameters, four rows of 256 tokens, beside torch's:

    lm2 bench step --config=backbone_10m --torch-python=VENV/bin/python

With `backbone_10m:lm2` it measures LM2, and the Llama as its backbone.
"""

import argparse

from lm2_jax.bench import step
from lm2_jax.commands import arguments
from lm2_jax.config import files
from lm2_jax.runtime import compilation_cache

EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--remat", action="store_true",
                        help="also measure every setting of rematerialisation")
    parser.add_argument("--torch-python", default="", metavar="PATH",
                        help="a Python with torch and transformers, whose Llama is measured too")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help="measurements of each variant (%(default)s)")
    arguments.add_out(parser, "step")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    step.run(files.load_config(args.config, overrides), args.config, remat=args.remat,
             torch_python=args.torch_python, repeats=args.repeats, out=args.out)
    return 0
