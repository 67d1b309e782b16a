"""Checkpoints: the only file that imports orbax."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lm2_jax.config import CheckpointConfig
from lm2_jax.types import Params

PARAMS, TRAINING, META = PARTS = "params", "training", "meta"
LAST_FILE = "commit_success.txt"  # that orbax writes into a part, and into the whole


class Checkpointer:
    """The checkpoints of one run, in `workdir/checkpoints`.

    A checkpoint has three parts: the parameters, the rest of the training state (so that an
    evaluation need not read it), and a small JSON (data position, configuration). It appears
    under its step by a rename once all of it is written, so one that a crash cut short is
    never chosen; nor is one that a copy cut short.

    Args:
      config: None = only to read, beside a run that may still be saving.
    """

    def __init__(self, workdir: str | Path, config: CheckpointConfig | None = None):
        self.directory = Path(workdir).resolve() / "checkpoints"
        writes, config = config is not None, config or CheckpointConfig()
        if writes and jax.process_index() == 0:
            self._remove_cut_short()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep if writes else None, create=writes,
            cleanup_tmp_directories=writes, enable_async_checkpointing=config.asynchronous)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=(PARAMS, TRAINING, META))

    def steps(self) -> list[int]:
        """The steps that can be restored, rising."""
        return sorted(step for step in self._manager.all_steps() if self._is_whole(step))

    def save(self, step: int, params: Params, training: Any, meta: dict) -> None:
        """Begins to save; an earlier save that failed raises here."""
        self._manager.save(step, force=True, args=ocp.args.Composite(**{
            PARAMS: ocp.args.StandardSave(params),
            TRAINING: ocp.args.StandardSave(training),
            META: ocp.args.JsonSave(meta)}))

    def restore(self, step: int, params: Params, training: Any) -> tuple[Params, Any]:
        """Parameters and training state of a step, in the shardings of the arrays given."""
        def target(tree):
            return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))

        items = self._manager.restore(step, args=ocp.args.Composite(
            **{PARAMS: target(params), TRAINING: target(training)}))
        return items[PARAMS], items[TRAINING]

    def restore_params(self, step: int, abstract_params: Params) -> Params:
        """Parameters alone; `abstract_params` has shapes, dtypes and shardings."""
        return self._manager.restore(step, args=ocp.args.Composite(**{
            PARAMS: ocp.args.StandardRestore(abstract_params)}))[PARAMS]

    def meta(self, step: int) -> dict:
        return self._manager.restore(
            step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]

    def wait(self) -> None:
        """Returns when everything is on the disk; a save that failed raises here."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        self._manager.close()

    def _is_whole(self, step: int) -> bool:
        folder = self.directory / str(step)
        return all((folder / part / LAST_FILE).is_file() for part in (*PARTS, ""))

    def _remove_cut_short(self) -> None:
        """Else they would count as saved: among those to keep, and when their step comes."""
        for folder in self.directory.glob("[0-9]*"):
            if folder.name.isdecimal() and not self._is_whole(int(folder.name)):
                shutil.rmtree(folder)


def choose_step(steps: list[int], step: int | None, workdir: str | Path) -> int:
    """The step asked for, or the newest; one line if there is none."""
    if not steps:
        raise FileNotFoundError(f"{workdir} holds no checkpoint; train first: "
                                f"lm2 train --config=... --workdir={workdir}")
    if step is not None and step not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {step}; it has "
                         + ", ".join(map(str, steps)))
    return steps[-1] if step is None else step
