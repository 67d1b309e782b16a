"""Arguments that several commands take."""

import argparse
import contextlib
from collections.abc import Iterator

from lm2_jax.config import Config, files
from lm2_jax.convert.beginning import Beginning
from lm2_jax.errors import UserError
from lm2_jax.runtime import paths, processes

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
      UserError: if such a key is overridden.
    """
    shape = beginning.shape(paths.for_checkpoints(args.workdir))
    if given := [key for key in overrides if key.startswith(tuple(shape))]:
        raise UserError(f"--config.{given[0]} is decided by the Llama that the run begins with; "
                        "leave it out")
    return files.load_config(args.config, overrides | shape)


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
    info = processes.find_process_info(args.coordinator, args.num_processes, args.process_id)
    processes.initialize(info, command=command, **processes.timeouts())
    yield
    processes.shutdown()


def names(text: str) -> list[str]:
    """The parts of "A, B", without the empty ones."""
    return [name.strip() for name in text.split(",") if name.strip()]
