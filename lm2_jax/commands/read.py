"""`lm2 read`: reads texts once, and keeps what the model has understood as a small file."""

import argparse
import contextlib
import time

from lm2_jax.commands import arguments
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.generation import saved
from lm2_jax.generation.api import ToRead, read_all
from lm2_jax.generation.states import ReadState
from lm2_jax.runtime import compilation_cache, paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar

EPILOG = """Ask the texts with `lm2 generate --state=STATE "QUESTION"`. The states of several texts
are one file; each text is found there by its name as it is given here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXT",
                        help="files of UTF-8 text (.gz or .zst too), each read by itself")
    arguments.add_checkpoint(parser)
    parser.add_argument("--save", required=True, metavar="STATE", help="file to write")
    arguments.add_state(parser, "go on from what was read before")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N",
                        help="texts that are read at the same time (%(default)s)")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    if args.batch_size < 1:
        raise UserError(f"--batch-size is {args.batch_size}; it must be at least 1")
    if twice := sorted({path for path in args.texts if args.texts.count(path) > 1}):
        raise UserError(f"{twice[0]} is named twice")
    save = paths.of(args.save)
    if not paths.in_bucket(save) and not save.absolute().parent.is_dir():
        raise UserFileNotFoundError(f"--save={args.save}: there is no such folder")
    contents = [(path, arguments.read_text(path)) for path in args.texts]
    compilation_cache.enable()
    trained, console = arguments.load_run(args), Console()
    earlier = arguments.load_state(args, trained)
    texts = [ToRead(trained, path, text, earlier) for path, text in contents]
    total = sum(len(text.tokens) for text in texts)
    done, began, states = 0, time.perf_counter(), []
    bar = Bar("reading", total, console=console, unit="tokens")

    def progress(tokens: int) -> None:
        nonlocal done
        done += tokens
        bar.update(done, f"{done / max(time.perf_counter() - began, 1e-9):,.0f} tokens/s")

    with contextlib.closing(bar):
        for first in range(0, len(texts), args.batch_size):
            states += read_all(trained, texts[first:first + args.batch_size], progress=progress,
                               batch_size=min(args.batch_size, len(texts)))
        saved.save(args.save, states)  # which waits for the device
    seconds = time.perf_counter() - began
    for state in states:
        console.print(_line(state))
    size = save.stat().st_size
    console.print(f"{args.save}: {size / 1e6:,.2f} MB; {total:,} tokens in {seconds:,.1f} s, "
                  f"{total / seconds:,.0f} a second")
    return 0


def _line(state: ReadState) -> str:
    *earlier, new = state.sources
    after = f", after {', '.join(source.name for source in earlier)}" if earlier else ""
    return f"{new.name}: {new.tokens:,} tokens{after}"
