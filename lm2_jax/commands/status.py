"""`lm2 status`: the state of runs, also while they train, on any machine that sees the workdirs."""

import argparse
import json
import math
import time

from lm2_jax.errors import UserError
from lm2_jax.report import status
from lm2_jax.runtime.console import Console

EPILOG = """Only small files of a workdir are read, none is written, and no device is used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="folder of a run")
    parser.add_argument("--weeks", action="store_true",
                        help="also show the share of each phase in the time of each week")
    parser.add_argument("--watch", type=float, metavar="SECONDS",
                        help="repeat until interrupted, with pauses of so many seconds")
    parser.add_argument("--json", action="store_true",
                        help="print one JSON object for each run; times are in seconds")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    if args.watch is not None and not 0 < args.watch < math.inf:
        raise UserError(f"--watch is {args.watch:g}; it must be a number of seconds above 0")
    while True:
        show(args.workdirs, args.weeks, args.json)
        if not args.watch:
            return 0
        time.sleep(args.watch)


def show(workdirs: list[str], weeks: bool = False, as_json: bool = False) -> None:
    """Prints the state of each run."""
    console = Console()
    for workdir in workdirs:
        found = status.read(workdir)
        if as_json:
            print(json.dumps(found.to_dict()), flush=True)
            continue
        console.print(status.table(found).terminal(found.workdir))
        if weeks:
            console.print(status.weeks_table(found).terminal("per cent of the time"))
