"""`lm2 unpack`: a workdir from the file of `lm2 pack`, as if the run had been stopped there."""

import argparse
import contextlib
from pathlib import Path

import jax

from lm2_jax.checkpoint import packed
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import meshes, paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import new_folder
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state


def unpack(file: str | Path, workdir: str | Path) -> int:
    """Makes a workdir with one checkpoint; returns its step.

    `lm2 train` with the run's config goes on there at the next step of data, curriculum and
    schedule. The optimizer's moments begin anew, so that the learning rate warms up again.

    Raises:
      UserError: if the file is not a packed run, or the workdir holds a run already.
    """
    workdir = paths.for_checkpoints(workdir)
    if (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds a run already; give a folder that does not exist")
    with new_folder(workdir) as partial:
        params, meta = packed.unpack(file, partial)
        config, step = workdirs.stored_config(partial), meta["next_step"]
        mesh = meshes.for_training(config, evaluates=False)
        new, shardings = train_state.create(LanguageModel(config.model),
                                            optimizer.make(config.train), config.seed, mesh)
        if jax.tree.map(jax.numpy.shape, params) != jax.tree.map(jax.numpy.shape, new.params):
            raise UserError(f"{file} was written by another version of lm2_jax: its parameters "
                            "are not those of its config")
        state = train_state.without_moments(new, jax.device_put(params, shardings.params), step)
        with contextlib.closing(Checkpointer(partial, config.checkpoint)) as checkpointer:
            checkpointer.save(step, state.params, workdirs.training_part(state), meta)
            checkpointer.wait()
    return step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="written by lm2 pack")
    parser.add_argument("--workdir", required=True, help="folder that holds no run yet")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    step = unpack(args.file, args.workdir)
    Console().print(f"{args.workdir}: step {step} of {args.file}; `lm2 train` goes on there")
    return 0
