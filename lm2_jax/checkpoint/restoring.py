"""Restoring checkpoints by orbax."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from lm2_jax.checkpoint import contents, quiet
from lm2_jax.checkpoint.failures import cause
from lm2_jax.checkpoint.folder import META, PARAMS, TRAINING, CheckpointFolder
from lm2_jax.checkpoint.stores import path_for_orbax
from lm2_jax.errors import UserError
from lm2_jax.runtime.buckets import BucketPath
from lm2_jax.types import Params


class Restorer(CheckpointFolder):
    """Restores the items of the checkpoints of one run; `Checkpointer` saves them too."""

    def __init__(self, workdir: str | Path, log: Callable[[str], None] | None = None):
        super().__init__(workdir, log)
        self._in_bucket = isinstance(self.directory, BucketPath)
        self._quiet = contextlib.ExitStack()

    def restore(self, step: int, abstract_params: Params, abstract_training: Any
                ) -> tuple[Params, Any]:
        """Restores the parameters and the rest of the training state.

        Args:
          abstract_params, abstract_training: trees of jax.ShapeDtypeStruct with shardings; no
            array is allocated beside the restored ones.

        Raises:
          UserError: if names, shapes or dtypes differ from the stored ones.
        """
        return (self._restore(step, PARAMS, abstract_params),
                self._restore(step, TRAINING, abstract_training))

    def restore_params(self, step: int, abstract_params: Params) -> Params:
        """Restores the parameters alone."""
        return self._restore(step, PARAMS, abstract_params)

    def restore_some_params(self, step: int, abstract_params: Params) -> Params:
        """Restores the parameters of a tree that is a part of the stored one."""
        return self._restore(step, PARAMS, abstract_params, partial=True)

    def meta(self, step: int) -> dict:
        """Restores the JSON object."""
        with self._reading(self.directory / str(step) / META) as folder:
            return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(
                path_for_orbax(folder), args=ocp.args.JsonRestore())

    def _restore(self, step: int, part: str, abstract: Any, partial: bool = False) -> Any:
        handler = ocp.PyTreeCheckpointHandler() if partial else ocp.StandardCheckpointHandler()
        args = ocp.args.PyTreeRestore(
            abstract, ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
        ) if partial else ocp.args.StandardRestore(abstract)
        with self._reading(self.directory / str(step) / part) as folder:
            stored = contents.describe(handler.metadata(path_for_orbax(folder)).tree)
        if partial:
            stored = {name: stored[name] for name in stored.keys() & contents.describe(abstract)}
        # orbax would silently cast to the expected dtype.
        if differences := contents.differences(stored, contents.describe(abstract)):
            others = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise UserError(f"{folder} does not fit: " + "; ".join(differences[:3]) + others)
        with self._reading(folder):
            return ocp.Checkpointer(handler).restore(path_for_orbax(folder), args=args)

    @contextlib.contextmanager
    def _reading(self, folder: Path) -> Iterator[Path]:
        self._quiet.enter_context(quiet.aborted_transfers())
        try:
            yield folder
        except Exception as error:
            quiet.keep(self._quiet)
            raise UserError(f"{folder} cannot be read: {cause(error, self._in_bucket)}") from error
        self._quiet.close()
