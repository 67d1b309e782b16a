"""Checkpoints: the only file that imports orbax."""

import contextlib
import functools
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lm2_jax.checkpoint import checksums
from lm2_jax.checkpoint.folder import DELETING, META, PARAMS, PARTS, TRAINING, CheckpointFolder
from lm2_jax.config import CheckpointConfig
from lm2_jax.errors import RunError, UserError
from lm2_jax.runtime import processes
from lm2_jax.types import Params

# Where orbax has all processes wait for each other in a save.
MEETINGS = {"async_write_complete": "written", "async_commit_complete": "committed"}


class SaveError(RunError):
    """A checkpoint could not be saved; one line says which, why, and which one is there."""


class _FailedElsewhere(Exception):
    """Another process could not write its part."""


class Checkpointer(CheckpointFolder):
    """The checkpoints of one run, in `workdir/checkpoints`.

    A checkpoint has three parts: the parameters, the rest of the training state (so that an
    evaluation need not read it), and a small JSON (data position, configuration). It is written
    beside its place, with checksums of all its files, and appears under its step by a rename:
    one that a crash cut short is never chosen, and one that was damaged later is found out.

    Args:
      config: None = only to read, beside a run that may still be saving.
      say: is given each line for the user; None = to stderr.
    """

    def __init__(self, workdir: str | Path, config: CheckpointConfig | None = None,
                 say: Callable[[str], None] | None = None):
        super().__init__(workdir, say)
        self._config = config
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # that ended the thread
        self._failure: SaveError | None = None  # of the last save
        self._step, self._met = 0, []
        if config is not None:
            _hush_orbax()
            self._orbax = self._saver()
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)

    # Reading.

    def restore(self, step: int, params: Params, training: Any) -> tuple[Params, Any]:
        """Parameters and training state of a step, in the shardings of the arrays given."""
        def abstract(tree):
            return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)

        return (self.restore_params(step, abstract(params)),
                self._restore(step, TRAINING, abstract(training)))

    def restore_params(self, step: int, abstract_params: Params) -> Params:
        """Parameters alone; `abstract_params` has shapes, dtypes and shardings."""
        return self._restore(step, PARAMS, abstract_params)

    def meta(self, step: int) -> dict:
        with self._reading(step, META) as folder:
            return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(
                folder, args=ocp.args.JsonRestore())

    def _restore(self, step: int, part: str, wanted: Any) -> Any:
        handler = ocp.StandardCheckpointHandler()
        with self._reading(step, part) as folder:
            stored = handler.metadata(folder).tree
        # Orbax would convert to the type wanted without a word.
        if wrong := _differences(_described(stored), _described(wanted)):
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(f"{folder} does not fit: " + "; ".join(wrong[:3]) + more)
        with self._reading(step, part) as folder:
            return ocp.Checkpointer(handler).restore(
                folder, args=ocp.args.StandardRestore(wanted))

    @contextlib.contextmanager
    def _reading(self, step: int, part: str) -> Iterator[Path]:
        folder = self.directory / str(step) / part
        try:
            yield folder
        except Exception as error:
            raise UserError(f"{folder} cannot be read: {_cause(error)}") from error

    # Writing.

    def save(self, step: int, params: Params, training: Any, meta: dict) -> None:
        """Begins to save the state as it is now.

        Raises:
          SaveError: if an earlier save failed, or this one did already, and
            `checkpoint.on_failure` is "stop"; else that is said, and no more.
        """
        self._report(self._finished())
        self._step, self._failure, self._met = step, None, []
        try:
            if jax.process_index() == 0:
                self._clean()
            self._orbax.save(self._unfinished(step), force=True, args=ocp.args.Composite(**{
                PARAMS: ocp.args.StandardSave(params),
                TRAINING: ocp.args.StandardSave(training),
                META: ocp.args.JsonSave(meta)}), custom_metadata={"checksums": checksums.FILE})
        except Exception as error:
            failure = self._failed(error)
            if jax.process_count() > 1:  # the others wait for this save to begin
                raise failure from error
            self._report(failure)
            return
        self._thread = threading.Thread(target=self._finish, args=(step,), name="checkpoint")
        self._thread.start()
        if not self._config.asynchronous:
            self._report(self._finished())

    def poll(self) -> None:
        """Reports an earlier save that has failed, as `save` would, but without waiting."""
        if self._thread and not self._thread.is_alive():
            self._report(self._finished())

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          SaveError: if it failed, whatever `checkpoint.on_failure` is.
        """
        self._failure = self._finished() or self._failure
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Waits for a save that is under way; says so if it fails."""
        if failure := self._finished():
            self._say(str(failure))
        if self._config is not None:
            self._orbax.close()
            if jax.process_index() == 0:
                self._clean()

    def _finish(self, step: int) -> None:
        try:
            self._all_written()
            if jax.process_index() == 0:
                unfinished, folder = self._unfinished(step), self.directory / str(step)
                checksums.write(unfinished)
                if folder.exists():
                    if not self._problem(step, PARTS):
                        raise FileExistsError(f"{folder} is there already")
                    self._set_aside(step)
                unfinished.rename(folder)
                older = [other for other in self.steps() if other < step]
                for other in older[:max(0, len(older) - self._config.keep + 1)]:
                    # Renamed first, so that a step is there as a whole or not at all.
                    (self.directory / str(other)).rename(self.directory / f"{other}{DELETING}")
                self._clean()
        except BaseException as error:
            self._error = error

    def _all_written(self) -> None:
        """Waits for all processes; if one of them fails, all do, and at once."""
        try:
            self._orbax.wait_until_finished()
        except _FailedElsewhere:
            raise
        except BaseException as error:
            for what in [name for name in MEETINGS.values() if name not in self._met][:1]:
                self._meet(what, _cause(error))  # where the others are waiting
            raise

    def _meet(self, what: str, problem: str = "", timeout: float = 1200.0) -> None:
        self._met.append(what)
        said = processes.barrier_with_errors(f"step {self._step} {what}", problem, timeout)
        if said and not problem:
            raise _FailedElsewhere("; ".join(said))

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        """In place of orbax's, at which the others would wait for one that failed."""
        for part, what in MEETINGS.items():
            if part in key:
                return self._meet(what, timeout=timeout_ms / 1000)
        return ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def _finished(self) -> SaveError | None:
        """Waits for the save that is under way; what to report if it failed."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        return self._failed(error) if error else None

    def _failed(self, error: BaseException) -> SaveError:
        """Leaves nothing of the save that failed."""
        with contextlib.suppress(Exception):
            self._orbax.close()
        self._orbax = self._saver()
        if jax.process_index() == 0:
            self._clean()
        steps = self.steps()
        what = ("was saved, but older ones could not be removed" if self._step in steps else
                "could not be saved")
        newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is none yet"
        failure = SaveError(f"checkpoint of step {self._step} {what}: {_cause(error)} "
                            f"({self.directory}); {newest}")
        failure.__cause__ = error
        return failure

    def _report(self, failure: SaveError | None) -> None:
        if failure is None:
            return
        self._failure = failure
        if self._config.on_failure == "stop":
            raise failure
        self._say(f"{failure}; training goes on")

    def _saver(self) -> ocp.AsyncCheckpointer:
        # Folders that cannot be made would be waited for; made in the call, they are refused
        # there.
        options = ocp.AsyncOptions(create_directories_asynchronously=False,
                                   barrier_sync_fn=self._barrier)
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(
            *PARTS, composite_options=ocp.CompositeOptions(async_options=options)),
            async_options=options)


def _cause(error: BaseException) -> str:
    """In a few words: the system's, if it was the system that refused."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, _FailedElsewhere):
        return str(error)
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first[:300]}"


def _described(tree: Any) -> dict[str, str]:
    """Type and shape of each array; a random key's as those of its numbers."""
    def one(leaf) -> str:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"

    return {jax.tree_util.keystr(path, simple=True, separator="/"): one(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _differences(stored: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return [f"{name} is {stored.get(name, 'not')} there, {wanted.get(name, 'not')} here"
            for name in sorted(stored.keys() | wanted) if stored.get(name) != wanted.get(name)]


@functools.cache  # once a process
def _hush_orbax() -> None:
    """A save that fails raises once; the hundreds of lines that come with it are left out."""
    if os.environ.get("LM2_TRACEBACK"):
        return

    def keep(record: logging.LogRecord) -> bool:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        return "orbax" not in record.pathname + record.getMessage() + trace

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(keep)
    others = sys.unraisablehook

    def hook(unraisable) -> None:  # writes that were not waited for, as another had failed
        if str(unraisable.exc_value) != "Event loop is closed":
            others(unraisable)

    sys.unraisablehook = hook
