"""`lm2 COMMAND`: parses the command line and calls one command of `lm2_jax.commands`."""

import argparse
import errno
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from typing import Any

from lm2_jax.errors import RunError, UserError
from lm2_jax.runtime import huge_pages

DESCRIPTION = "Memory-augmented language models in JAX."
# The module of a command is imported only when it runs: `lm2 help` need not load JAX.
COMMANDS = {
    "train": "Train in a workdir, or resume the run there, then evaluate.",
    "sweep": "Train the runs of a config, a few at a time, and compare them: a queue that resumes.",
    "convert": "Import a Llama from a Hugging Face folder into a workdir, or export one.",
    "eval": "Evaluate a checkpoint: table, results.json, plots.",
    "generate": "Write on from a prompt, answer a question, or chat.",
    "read": "Read texts once and keep what the model has understood as a file, to ask it later.",
    "gates": "Show what a trained LM2's gates do: table, gates.png.",
    "analyze": "Look inside a trained memory: a page of heat maps, gates, gradients and probes.",
    "pack": "Write a run to one small file: parameters in bfloat16, no optimizer moments.",
    "unpack": "Make a workdir of such a file, in which the run goes on.",
    "status": "Show how runs are: step, loss, rate, time left, last save, hosts, goodput.",
    "checkpoints": "List, verify and delete the checkpoints of a run.",
    "report": "Compare evaluated workdirs: report.md, plots.",
    "data": "Show training samples of a config as text.",
    "data tokenize": "Tokenize texts into shards, which data.source=corpus trains on.",
    "configs": "List the configs that come with the package.",
    "compile": "Compile a config's steps for devices that need not be there: memory, FLOPs, "
               "collectives.",
    "bench attention": "Measure attention kernels over the length of a segment.",
    "bench bptt": "Compute how many segments backpropagation through time can take in.",
    "bench compile": "Measure compile time and program size over blocks and segments.",
    "bench context": "Measure time and memory of reading long contexts, beside rivals.",
    "bench costs": "Measure a model with a memory against its backbone.",
    "bench data": "Measure how fast batches are made.",
    "bench decode": "Measure how fast text is generated.",
    "bench device": "Measure how near a large model comes to an accelerator's limits, in minutes.",
    "bench eval": "Measure time and memory of evaluation over the length of the context.",
    "bench memory": "Measure the memory of one block, beside the authors' module.",
    "bench roofline": "Compare variants of a training step by their roofline bounds on a TPU.",
    "bench step": "Measure the training step: time, FLOPs, memory, and other ways to take it.",
}
ROAD = """From a Llama (a Hugging Face folder LLAMA) and TEXTS to a Llama with a memory:
    lm2 data tokenize TEXTS --tokenizer=LLAMA --held-out=0.05 --out=shards
    lm2 convert from-hf LLAMA --workdir=runs/llama
    lm2 train --config=books --init-from=runs/llama --workdir=runs/mine \\
        --config.data.corpora=shards --config.train.trainable='*/memory/*'
    lm2 convert to-hf OUT --workdir=runs/mine"""
# Of the commands that are not named like their module.
MODULES = {"eval": "evaluate", "data tokenize": "tokenize"} | {
    name: name.replace(" ", ".") for name in COMMANDS if name.startswith("bench ")}
# What the file system refuses is the user's to mend, whichever line of code met it.
SYSTEM_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
                 errno.EISDIR, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EFBIG}


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    An error that is the user's to mend is one line on stderr, with status 2, or 1 for a run that
    cannot go on. Any other exception is a programming error and keeps its traceback; set
    LM2_TRACEBACK=1 to see the traceback of every error.
    """
    in_own_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(f"{_help(COMMANDS)}\n\n{ROAD}")
        return 0
    name, *rest = argv
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name not in COMMANDS:
        group = [command for command in COMMANDS if command.startswith(f"{name} ")]
        if group and (not rest or rest[0] in ("help", "-h", "--help")):
            print(_help(group))
            return 0
        wanted = " ".join([name, *rest[:1]] if group else [name])
        print(f"lm2: no command {wanted!r}; choose from {', '.join(group or COMMANDS)}",
              file=sys.stderr)
        return 2
    if in_own_process:
        huge_pages.ask_for_them()
    # JAX makes many small objects where it traces, and few that are garbage: by Python's thresholds
    # an eighth of the CPU time of a short run is spent on looking for those.
    gc.set_threshold(100_000, 50, 100)
    command = importlib.import_module("lm2_jax.commands." + MODULES.get(name, name))
    args, others = make_parser(name, command).parse_known_args(rest)
    try:
        _check_environment()
        _expand_paths(args)
        return command.run(args, overrides(name, args, others))
    except (UserError, RunError) as error:
        return _failed(name, str(error), 1 if isinstance(error, RunError) else 2)
    except OSError as error:
        if error.errno not in SYSTEM_ERRORS:
            _abort_others_after_crash(error)
            raise
        where = f": {error.filename}" if error.filename else ""
        return _failed(name, f"{error.strerror}{where}", 2)
    except KeyboardInterrupt:
        resumes = "" if name in ("generate", "read") else (
            "; the same command resumes from the last checkpoint")
        return _failed(name, f"interrupted{resumes}", 130)
    except Exception as error:
        _abort_others_after_crash(error)
        raise


def make_parser(name: str, command) -> argparse.ArgumentParser:
    """The parser of one command.

    Args:
      name: of the command, as "train".
      command: its module, which has `add_arguments(parser)` and perhaps an EPILOG.
    """
    parser = Parser(prog=f"lm2 {name}", description=COMMANDS[name], allow_abbrev=False,
                    epilog=getattr(command, "EPILOG", None))
    command.add_arguments(parser)
    return parser


def overrides(name: str, args: argparse.Namespace, unknown: Sequence[str]) -> dict[str, str]:
    """Arguments of the form --config.a.b=v as {"a.b": "v"}.

    Raises:
      UserError: for any other argument, or if the command takes no config.
    """
    if unknown and "config" not in args:
        raise UserError(f"unknown argument {unknown[0]} (lm2 {name} --help lists them)")
    found = {}
    for argument in unknown:
        key, equals, value = argument.partition("=")
        if not key.startswith("--config.") or not equals:
            raise UserError(f"unknown argument {argument}; a key of the config is given as "
                            "--config.KEY=VALUE (lm2 help lists the commands)")
        found[key.removeprefix("--config.")] = value
    return found


def _check_environment() -> None:
    from lm2_jax.runtime import logs

    logs.check()


def _expand_paths(args: argparse.Namespace) -> None:
    """Expands `~` in the arguments that are paths, and checks URLs."""
    from lm2_jax.runtime import paths

    for name in ("config", "workdir", "workdirs", "init_from", "init_from_hf", "out", "file",
                 "sources", "tokenizer", "state", "save", "texts", "jsonl"):
        value: Any = getattr(args, name, None)
        if name == "config" and value:
            setattr(args, name, str(paths.local(value, "the config, which is Python code,")))
        elif isinstance(value, list):
            setattr(args, name, [str(paths.of(path)) for path in value])
        elif value:
            setattr(args, name, str(paths.of(value)))


def _help(names: Collection[str]) -> str:
    width = max(map(len, names)) + 2
    lines = [f"    {name:{width}}{COMMANDS[name]}" for name in names]
    return "\n".join(["usage: lm2 COMMAND [ARGUMENTS]", "", DESCRIPTION, "", "commands:", *lines,
                      "", "lm2 COMMAND --help describes the arguments of a command."])


def _failed(name: str, reason: str, status: int) -> int:
    """Prints the reason in one line, here and on the other processes of the run, which end."""
    if os.environ.get("LM2_TRACEBACK"):
        traceback.print_exc()
    from lm2_jax.runtime.console import print_error

    print_error(f"lm2 {name}: {reason}")
    _abort_others(reason, status)
    return status


def _abort_others_after_crash(error: Exception) -> None:
    """Prints the traceback and ends all processes of the run; one process alone returns."""
    if (processes := sys.modules.get("lm2_jax.runtime.processes")) and processes.is_joined():
        traceback.print_exc()
        processes.abort(f"{type(error).__name__}: {error}".split("\n")[0], 1)


def _abort_others(reason: str, status: int) -> None:
    if processes := sys.modules.get("lm2_jax.runtime.processes"):
        processes.abort(reason, status)


if __name__ == "__main__":
    sys.exit(main())
