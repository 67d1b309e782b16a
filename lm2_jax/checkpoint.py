"""Checkpoints: the only file that imports orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lm2_jax.config import CheckpointConfig
from lm2_jax.types import Params

PARAMS, TRAINING, META = "params", "training", "meta"


class Checkpointer:
    """The checkpoints of one run, in `workdir/checkpoints`.

    A checkpoint has three parts: the parameters, the rest of the training state (so that an
    evaluation need not read it), and a small JSON (data position, configuration). It appears
    under its step by a rename once all of it is written, so one that a crash cut short is
    never chosen.
    """

    def __init__(self, workdir: str | Path, config: CheckpointConfig | None = None):
        self.directory = Path(workdir).resolve() / "checkpoints"
        config = config or CheckpointConfig()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep, create=True, cleanup_tmp_directories=True,
            enable_async_checkpointing=config.asynchronous)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=(PARAMS, TRAINING, META))

    def steps(self) -> list[int]:
        """The steps that can be restored, rising."""
        return sorted(self._manager.all_steps())

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


def choose_step(steps: list[int], step: int | None, workdir: str | Path) -> int:
    """The step asked for, or the newest; one line if there is none."""
    if not steps:
        raise FileNotFoundError(f"{workdir} holds no checkpoint; train first: "
                                f"lm2 train --config=... --workdir={workdir}")
    if step is not None and step not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {step}; it has "
                         + ", ".join(map(str, steps)))
    return steps[-1] if step is None else step
