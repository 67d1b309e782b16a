"""Arguments that several commands take."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import TextIO, cast

import jax

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.workdir import Run
from lm2_jax.config import Config, files
from lm2_jax.convert.beginning import Beginning
from lm2_jax.data.text import compressed
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.generation import saved
from lm2_jax.generation.states import ReadState
from lm2_jax.runtime import clusters, paths, processes
from lm2_jax.runtime.console import Console, SafeStream

CONFIG_HELP = """Any key of the config may be given as --config.KEY=VALUE, for example
--config.train.num_steps=20 --config.seed=1 --config.model.memory.num_slots=32;
`lm2 configs --keys` lists them."""
PROCESSES_HELP = """Several processes: --coordinator, --num-processes and --process-id, or
LM2_COORDINATOR, LM2_NUM_PROCESSES and LM2_PROCESS_ID; SLURM, a TPU pod and GKE are recognised
(LM2_DISTRIBUTED=1 insists, 0 forbids). LM2_CONNECT_TIMEOUT and LM2_HEARTBEAT_TIMEOUT are
seconds."""


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config", required=required,
                        help="a Python file with get_config(), or the name of a shipped config")


def load_config(args: argparse.Namespace, overrides: dict[str, str],
                beginning: Beginning = Beginning()) -> Config:  # noqa: B008
    """Loads --config for --workdir.

    Keys that a Llama decides (`llama.SHAPE`) are those of the Llama that the run there has begun
    with, or now begins with.

    Raises:
      UserError: if such a key is overridden, or a path of the config cannot be used.
    """
    shape = beginning.shape(paths.for_checkpoints(args.workdir))
    if given := [key for key in overrides if key.startswith(tuple(shape))]:
        raise UserError(f"--config.{given[0]} is decided by the Llama that the run begins with; "
                        "leave it out")
    config = files.load_config(args.config, overrides | shape)
    for value in (config.data.background, config.data.babi, config.data.tokenizer,
                  *config.data.corpora, config.eval.samples, config.eval.babi, config.eval.indices,
                  config.eval.background, config.eval.prompts, *config.eval.corpora):
        paths.of(value)
    return config


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--workdir and --step of a run that is there."""
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="checkpoint to take; by default the newest")


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs")
    parser.add_argument("--num-processes", type=int, metavar="N", help="processes of the run")
    parser.add_argument("--process-id", type=int, metavar="I", help="of this one, from 0")


@contextlib.contextmanager
def joined_processes(args: argparse.Namespace, command: str) -> Iterator[None]:
    """Joins the processes of the run, if there are several; they end together.

    After an exception the processes are not shut down here: `lm2_jax.cli` ends them with the
    reason.

    Args:
      command: what stands before a message, as "lm2 train".
    """
    info = clusters.find_process_info(args.coordinator, args.num_processes, args.process_id)
    processes.initialize(info, command=command, **clusters.timeouts())
    yield
    processes.shutdown()


def add_out(parser: argparse.ArgumentParser, folder: str) -> None:
    """--out of a measurement, which is written to `folder` by default."""
    parser.add_argument("--out", metavar="FOLDER", default=folder,
                        help="folder of the table and its numbers (%(default)s)")


def names(text: str) -> list[str]:
    """The parts of "A, B", without the empty ones."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_state(parser: argparse.ArgumentParser, what: str) -> None:
    """--state and --document of a file that `lm2 read` has written."""
    parser.add_argument("--state", metavar="STATE", help=f"file of lm2 read: {what}")
    parser.add_argument("--document", default="", metavar="NAME",
                        help="text of the state, where the file has several")


def load_run(args: argparse.Namespace) -> Run:
    """Loads the model of --workdir, to use it on one device."""
    mesh = partition.make_mesh({}, jax.devices()[:1])
    return workdirs.load(paths.for_checkpoints(args.workdir), args.step, mesh)


def load_state(args: argparse.Namespace, run: Run) -> ReadState | None:
    """Reads --state, if it is given."""
    if args.state:
        return saved.read_state(args.state, run, args.document)
    if args.document:
        raise UserError("--document is a text of --state, which is not given")
    return None


def notes() -> Console:
    """A console that prints to stderr, where stdout is for the result alone."""
    return Console(file=cast(TextIO, SafeStream("stderr")))


def read_text(path: str) -> str:
    """Reads a file of UTF-8 text, which may be compressed (.gz, .zst).

    Raises:
      UserError: if it is not there, a folder, or not UTF-8.
    """
    if not paths.of(path).is_file():
        raise UserFileNotFoundError(f"no file {path}")
    with compressed.opened(paths.of(path)) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be read") from None
