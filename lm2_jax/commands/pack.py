"""`lm2 pack`: a run as one small file."""

import argparse

from lm2_jax.checkpoint import packed
from lm2_jax.commands import arguments
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_checkpoint(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the file, as run.npz")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    step = packed.pack(args.workdir, args.out, args.step)
    Console().print(f"{args.out}: {args.workdir} at step {step}, "
                    f"{paths.of(args.out).stat().st_size / 1e6:.1f} MB")
    return 0
