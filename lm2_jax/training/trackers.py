"""Services that get the metrics of a run beside its workdir: W&B, MLflow, or one's own.

None of them can stop or slow down a run: each is called in a thread of its own, and one that cannot
be started, fails or does not keep up is left out, which one line says.
"""

import contextlib
import importlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lm2_jax.config import Config, files
from lm2_jax.runtime import logs
from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.files import scratch, write_text

FILE = "trackers.json"  # in a workdir: the service's id of the run by tracker
MOST_WAITING = 10_000  # calls, until a tracker is left out because it does not keep up
SECONDS_TO_END = 60.0
MLFLOW_BATCH = 100  # parameters in a request


class Tracker(Protocol):
    """A service that gets metrics. Its class is called with the arguments of `Tracker.__init__`.

    Attributes:
      run_id: the service's id of the run; the next start of the run passes it on.
    """

    run_id: str

    def __init__(self, run_id: str | None, name: str, project: str, folder: Path,
                 config: Mapping[str, Any]):
        """Begins the run at the service, or resumes it.

        Args:
          run_id: of the run if it is resumed, else None.
          name: of the run.
          project: `log.project`.
          folder: for files of the service.
          config: of the run, {"model.embed_dim": 64, ...}.
        """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Gets the metrics of a step. After a crash, steps since the last checkpoint come again."""

    def close(self) -> None:
        """Called once, after the last step."""


class WandB:
    """Weights & Biases; its own settings, such as WANDB_MODE=offline, apply."""

    def __init__(self, run_id: str | None, name: str, project: str, folder: Path,
                 config: Mapping[str, Any]):
        import wandb

        self._run = wandb.init(id=run_id, resume="allow", name=name, project=project,
                               dir=str(folder), config=dict(config))
        self.run_id = self._run.id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow, at the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run_id: str | None, name: str, project: str, folder: Path,
                 config: Mapping[str, Any]):
        import mlflow

        self._client, self._metric = mlflow.MlflowClient(), mlflow.entities.Metric
        experiment = self._client.get_experiment_by_name(project)
        if run_id is None:
            where = experiment.experiment_id if experiment else (
                self._client.create_experiment(project))
            run_id = self._client.create_run(where, run_name=name).info.run_id
            params = [mlflow.entities.Param(key, str(value)[:500]) for key, value in config.items()]
            for first in range(0, len(params), MLFLOW_BATCH):
                self._client.log_batch(run_id, params=params[first:first + MLFLOW_BATCH])
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self.run_id, [self._metric(key, value, now, step)
                                             for key, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


SHIPPED: Mapping[str, Callable] = {"wandb": WandB, "mlflow": MLflow}


class Trackers:
    """The trackers of a run, each in a thread of its own.

    Args:
      workdir: of the run; also the name of the run.
    """

    def __init__(self, config: Config, workdir: Path):
        self._path, self._ids, self._lock = workdir / FILE, _stored_ids(workdir), threading.Lock()
        options = dict(name=workdir.name, project=config.log.project, folder=scratch(workdir),
                       config=files.flat(config))
        self._threads = [_Thread(name, options, self._ids.get(name), self._started)
                         for name in config.log.trackers]

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Passes on the metrics of a step that are finite numbers; never waits."""
        known = {name: float(value) for name, value in values.items()
                 if isinstance(value, (int, float)) and math.isfinite(value)}
        for thread in self._threads:
            thread.put(step, known)

    def close(self) -> None:
        """Waits at most SECONDS_TO_END for what was passed on."""
        for thread in self._threads:
            thread.end()

    def _started(self, name: str, run_id: str) -> None:
        with self._lock:
            self._ids[name] = run_id
            with contextlib.suppress(OSError):
                write_text(self._path, json.dumps(self._ids) + "\n")


class _Thread:
    """Starts one tracker and calls it, until it fails."""

    def __init__(self, name: str, options: Mapping[str, Any], run_id: str | None,
                 started: Callable[[str, str], None]):
        self._name, self._left_out = name, threading.Event()
        self._waiting: queue.Queue = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, args=(options, run_id, started),
                                        daemon=True, name=f"tracker {name}")
        self._thread.start()

    def put(self, step: int, values: Mapping[str, float]) -> None:
        if self._left_out.is_set():
            return
        try:
            self._waiting.put_nowait((step, values))
        except queue.Full:
            self._leave_out("it does not keep up")

    def end(self) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(SECONDS_TO_END)
        if self._thread.is_alive():
            self._leave_out(f"it has not ended within {SECONDS_TO_END:g} s")

    def _run(self, options: Mapping[str, Any], run_id: str | None,
             started: Callable[[str, str], None]) -> None:
        try:
            tracker = _class(self._name)(run_id, **options)
            started(self._name, tracker.run_id)
            while (found := self._waiting.get()) is not None and not self._left_out.is_set():
                tracker.write(*found)
            tracker.close()
        except ModuleNotFoundError as error:
            how = f"; pip install 'lm2_jax[{self._name}]'" if self._name in SHIPPED else ""
            self._leave_out(f"{error}{how}")
        except Exception as error:
            self._leave_out(f"{type(error).__name__}: {error}".split("\n")[0][:300])

    def _leave_out(self, reason: str) -> None:
        if not self._left_out.is_set():
            self._left_out.set()
            print_error(f"log.trackers: {self._name} is left out, the run goes on: {reason}",
                        logs.WARNING)


def _class(name: str) -> Callable:
    if name in SHIPPED:
        return SHIPPED[name]
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _stored_ids(workdir: Path) -> dict[str, str]:
    try:
        found = json.loads((workdir / FILE).read_text("utf-8"))
        return {str(name): str(run_id) for name, run_id in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
