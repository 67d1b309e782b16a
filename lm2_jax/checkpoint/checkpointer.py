"""Saving checkpoints by orbax."""

import contextlib
import itertools
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lm2_jax.checkpoint import checksums, contents, quiet
from lm2_jax.checkpoint.failures import FailedElsewhere, SaveError, cause
from lm2_jax.checkpoint.folder import META, PARAMS, PARTS, TRAINING
from lm2_jax.checkpoint.restoring import Restorer
from lm2_jax.checkpoint.retention import Metrics, Retention, stored_metrics
from lm2_jax.checkpoint.stores import path_for_orbax
from lm2_jax.config import CheckpointConfig
from lm2_jax.runtime import held, processes
from lm2_jax.types import Params

_barrier_numbers = itertools.count()  # alike on all processes


class _Manager(ocp.CheckpointManager):

    def reached_preemption(self, step: int) -> bool:
        """Returns False without asking JAX's preemption service.

        The service takes the largest number that a process has asked about for its progress, and
        `Preemption` asks with numbers of its own; with the step of a save, it would agree on a
        number that is never asked about, and SIGTERM would be ignored.
        """
        return False


class Checkpointer(Restorer):
    """The checkpoints of one run, in `workdir/checkpoints`.

    `ocp.CheckpointManager` saves three items for each step: the parameters, the rest of the
    training state (which an evaluation does not read), and a small JSON object (position in the
    data, config). Added here, before orbax commits a step by renaming its folder and deletes older
    ones: all arrays must be readable from the new files, and checksums of these are written. So a
    save that was interrupted is never selected, and later damage is detected.

    Args:
      config: None = only for reading, also while a run saves to the same folder.
      log: receives each line for the user; None = they go to stderr.
      concurrent_gb: GB of parameters that are written at the same time, more than the largest of
        them has; None = no limit. Each needs about its own size again while it is compressed.
    """

    def __init__(self, workdir: str | Path, config: CheckpointConfig | None = None,
                 log: Callable[[str], None] | None = None, concurrent_gb: int | None = None):
        super().__init__(workdir, log)
        self._config = config
        self._handlers = None if concurrent_gb is None else {
            PARAMS: ocp.StandardCheckpointHandler(save_concurrent_gb=concurrent_gb),
            TRAINING: ocp.StandardCheckpointHandler(), META: ocp.JsonCheckpointHandler()}
        self._manager: _Manager | None = None  # created anew after a failed save
        self._step, self._expected = 0, {}  # of the current save
        self._metrics: dict[int, Metrics] = {}  # by step
        self._calling_thread, self._barriers_broken = 0, False
        self._failure: SaveError | None = None  # of the last save
        if config is not None:
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, params: Params, training: Any, meta: dict,
             metrics: Metrics = types.MappingProxyType({})) -> None:
        """Starts saving the state as it is now; every process must call this.

        Args:
          meta: the JSON object.
          metrics: what was measured at this step, alike on all processes; by one of them
            `checkpoint.keep_best` chooses.

        Raises:
          SaveError: if an earlier save failed, or this one failed already, and
            `checkpoint.on_failure` is "stop". Else the failure is logged.
        """
        self._report(self._join())
        self._failure, self._step = None, step
        self._metrics[step] = dict(metrics)
        self._calling_thread, self._barriers_broken = threading.get_ident(), False
        self._expected = {PARAMS: contents.describe(params), TRAINING: contents.describe(training)}
        self._quiet.enter_context(quiet.aborted_transfers())
        try:
            held.confirm(str(self.directory))
            if jax.process_index() == 0:
                self._make_room(step)
            self._manager = self._manager or self._create_manager()
            self._manager.save(step, force=True, args=ocp.args.Composite(**{
                PARAMS: ocp.args.StandardSave(params),
                TRAINING: ocp.args.StandardSave(training),
                META: ocp.args.JsonSave(meta)}), custom_metadata={
                    "checksums": checksums.FILE, "metrics": self._metrics[step]})
        except Exception as error:
            failure = self._failed(error)
            if jax.process_count() > 1:  # the other processes wait for this save to start
                raise failure from error
            self._report(failure)
            return
        if not self._saving.asynchronous:
            self._report(self._join())

    def poll(self) -> None:
        """Reports a failed save as `save` would, without waiting for one in progress."""
        if self._manager and (self._barriers_broken or not self._manager.is_saving_in_progress()):
            self._report(self._join())

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
          SaveError: if it failed, whatever `checkpoint.on_failure` is.
        """
        self._failure = self._join() or self._failure
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Waits for a save in progress and logs its failure."""
        if failure := self._join():
            self._log(str(failure))
        if self._manager:
            self._manager.close()
        if self._config is not None and jax.process_index() == 0:
            self._remove_temporary()
        self._quiet.close()

    @property
    def _saving(self) -> CheckpointConfig:
        if self._config is None:
            raise ValueError("this Checkpointer only reads; give it a config to save")
        return self._config

    def _create_manager(self) -> _Manager:
        if jax.process_index() == 0:
            self._clear_incomplete_steps(self._saving.keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=Retention(self._saving, self._metrics_of),
            async_options=ocp.AsyncOptions(
                barrier_sync_fn=self._barrier, post_finalization_callback=self._verify,
                # orbax would wait for a folder that cannot be created.
                create_directories_asynchronously=False))
        return _Manager(path_for_orbax(self.directory), item_handlers=self._handlers,
                        options=options)

    def _metrics_of(self, step: int) -> Metrics:
        if step not in self._metrics:
            self._metrics[step] = stored_metrics(self, step)
        return self._metrics[step]

    def _make_room(self, step: int) -> None:
        """Moves away what orbax would overwrite."""
        self._remove_temporary()
        folder = self.directory / str(step)
        if folder.exists():
            if not self._find_problem(step, PARTS):
                raise FileExistsError(f"{folder} already exists")
            self._rename_damaged(step)

    def _verify(self) -> None:
        """Checks that all arrays can be found in the new files, and writes their checksums.

        orbax calls this on the first process when all have written their part and these are
        merged, before it renames the folder or, in a bucket, writes the marker.
        """
        folder = self.directory / (
            str(self._step) if self._in_bucket else f"{self._step}{ocp.utils.TMP_DIR_SUFFIX}")
        for part, expected in self._expected.items():
            stored = ocp.StandardCheckpointHandler().metadata(path_for_orbax(folder / part)).tree
            if differences := contents.differences(contents.describe(stored), expected):
                raise ValueError(f"{part} was not stored as it is: {differences[0]}")
        # In a bucket this fails if the lease is lost, and orbax then writes no marker.
        checksums.write(folder, PARTS)

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        """Replaces orbax's barrier, at which the others would wait for a process that failed.

        A process whose save failed arrives, with the exception, at the barrier that ends its
        save. Barriers are numbered rather than named by `key`, so that the others meet it there,
        wherever they are; they learn the error and fail too. Later barriers of the save are
        skipped.
        """
        error = None if threading.get_ident() == self._calling_thread else sys.exception()
        if error and jax.process_index() == 0 and not self._in_bucket:
            self._remove_temporary()  # now, since other files may need the space
        if jax.process_count() == 1 or self._barriers_broken:
            return
        problems = processes.barrier_with_errors(
            f"checkpoint {next(_barrier_numbers)}", cause(error, self._in_bucket) if error else "",
            timeout_ms / 1000)
        self._barriers_broken = bool(problems)
        if problems and not error:
            raise FailedElsewhere("; ".join(problems))

    def _join(self) -> SaveError | None:
        """Waits for the save in progress; returns its failure."""
        if self._manager is None:
            return None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            return self._failed(error)
        self._quiet.close()
        return None

    def _failed(self, error: Exception) -> SaveError:
        """Removes what the failed save has written, and describes the failure."""
        manager, self._manager = self._manager, None
        if manager:
            with contextlib.suppress(Exception):
                manager.close()
        quiet.keep(self._quiet)
        try:
            if jax.process_index() == 0 and not self._in_bucket:
                self._remove_temporary()
            steps = self.steps()
        except OSError:  # a store that cannot be reached; the next save removes what is left
            steps = []
        what = ("was saved, but older ones could not be removed" if self._step in steps else
                "could not be saved")
        newest = (f"the newest checkpoint is of step {steps[-1]}" if steps else
                  "earlier ones are as they were" if self._in_bucket else "there is none yet")
        failure = SaveError(f"checkpoint of step {self._step} {what}: "
                            f"{cause(error, self._in_bucket)} ({self.directory}); {newest}")
        failure.__cause__ = error
        return failure

    def _report(self, failure: SaveError | None) -> None:
        if failure is None:
            return
        self._failure = failure
        if self._saving.on_failure == "stop":
            raise failure
        self._log(f"{failure}; training goes on")
