"""A run of several processes: how they start, synchronise, and stop together."""

import contextlib
import json
import math
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm2_jax.errors import UserError
from lm2_jax.runtime import logs
from lm2_jax.runtime.clusters import CONNECT_TIMEOUT, HEARTBEAT_TIMEOUT, ProcessInfo
from lm2_jax.runtime.console import print_error
from lm2_jax.runtime.rendezvous import Rendezvous, RendezvousError

T = TypeVar("T")
BARRIER_TIMEOUT = 1200.0  # seconds
SECONDS_FOR_CAUSE = 1.0  # until the failure of another process has been reported here

_rendezvous: Rendezvous | None = None


def initialize(info: ProcessInfo | None, connect_timeout: float = CONNECT_TIMEOUT,
               heartbeat_timeout: float = HEARTBEAT_TIMEOUT, command: str = "lm2") -> None:
    """Connects the processes of a run; afterwards `jax.devices()` are those of all processes.

    If a process ends before `shutdown`, the others print which one and exit with status 1: at once,
    or after `heartbeat_timeout` if its host is unreachable.

    Args:
      info: None = a run of one process, for which this does nothing.
      connect_timeout, heartbeat_timeout: seconds.
      command: for messages.
    """
    global _rendezvous
    if info is None:
        return
    logs.at(process=info.process_id)

    def on_failure(line: str) -> None:
        print_error(f"{command}: {line}. This process stops too; the same command resumes from the "
                    "last checkpoint")
        os._exit(1)

    if info.num_processes > 1:
        require_preemption_service()
        try:
            _rendezvous = Rendezvous(info.coordinator, info.num_processes, info.process_id,
                                     connect_timeout, on_failure, print_error)
        except RendezvousError as error:
            if not info.detected:
                raise
            raise RendezvousError(f"{error} (the environment is that of {info.num_processes} tasks "
                                  "of a cluster; set LM2_DISTRIBUTED=0 for a run of one process)"
                                  ) from None
    jax.distributed.initialize(
        info.coordinator, info.num_processes, info.process_id,
        local_device_ids=info.local_devices, cluster_detection_method="deactivate",
        initialization_timeout=math.ceil(connect_timeout),
        heartbeat_timeout_seconds=math.ceil(heartbeat_timeout))


def require_preemption_service() -> None:
    """Raises a UserError if JAX's preemption service, which several processes need, is off."""
    if not getattr(jax.config, "jax_enable_preemption_service", True):
        raise UserError("jax_enable_preemption_service is off, but without it several processes "
                        "cannot agree on a step to save at after SIGTERM; unset "
                        "JAX_ENABLE_PREEMPTION_SERVICE or set it to 1")


def refuse_in_worker() -> None:
    """Raises a UserError in a worker process that imports the main script.

    Python starts a worker by importing the main script again. Without a guard, a script that trains
    would train in every worker.
    """
    # CPython marks the process in this way while it imports the main script.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError("a data worker process has run the main script again, because worker "
                        "processes import it; put what it runs under `if __name__ == "
                        "\"__main__\":`, or set data.num_workers=0")


def shutdown() -> None:
    """Ends the run; every process calls this after its last work."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("finish")
        if _rendezvous:
            _rendezvous.close()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def abort(reason: str, status: int) -> None:
    """Exits with `status` if the run has several processes; the others report `reason` and exit.

    A normal exit of Python would wait for the other processes, which wait for this one. Waits a
    moment first: if this process failed because another one did, that failure is reported instead.
    """
    if _rendezvous:
        time.sleep(SECONDS_FOR_CAUSE)
        _rendezvous.close(reason)
        for stream in (sys.stderr, sys.stdout):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(status)


def is_joined() -> bool:
    """Returns True if this is one of several processes that `initialize` has joined."""
    return _rendezvous is not None


def is_primary() -> bool:
    """Whether this is process 0, which writes the files that are written once."""
    return jax.process_index() == 0


def name() -> str:
    """This process, for a message: "process 1 of 4 (host)"."""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def print_on_primary(line: str) -> None:
    """Prints a warning to stderr, here and on process 0."""
    print_error(line, logs.WARNING)
    if _rendezvous:
        _rendezvous.send_to_primary(line)


def primary_first(action: Callable[[], T]) -> T:
    """Calls `action` on process 0 and then on the others, which can read what it wrote."""
    if not is_primary():
        barrier("primary first")
        return action()
    result = action()
    barrier("primary first")
    return result


def broadcast_from_primary(value: int) -> int:
    """Returns process 0's value (an int32) on every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def barrier(key: str) -> None:
    """Waits until every process has called this. Runs on the devices: only for the main thread."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(key)


def barrier_with_errors(key: str, error: str = "", timeout: float = BARRIER_TIMEOUT) -> list[str]:
    """Waits until every process has called this; returns the errors of all of them.

    Unlike `barrier` it uses no devices, so it may be called in any thread.

    Args:
      key: name of the barrier, used once in a run.
      error: of this process; "" = none.
      timeout: seconds to wait for the others.
    """
    if jax.process_count() == 1:
        return [error] if error else []
    client = _coordination_client()
    if error:
        client.key_value_set(f"lm2/{key}/{jax.process_index()}", f"{name()}: {error}")
    client.wait_at_barrier(f"lm2/{key}", int(1000 * timeout))
    return [value for _, value in client.key_value_dir_get(f"lm2/{key}/")]


def gather(key: str, value: str) -> list[str]:
    """Returns the values of all processes; every process must call this.

    Args:
      key: used once in a run.
    """
    if jax.process_count() == 1:
        return [value]
    client = _coordination_client()
    client.key_value_set(f"lm2/{key}/{jax.process_index()}", value)
    client.wait_at_barrier(f"lm2/{key}", int(1000 * BARRIER_TIMEOUT))
    return [found for _, found in client.key_value_dir_get(f"lm2/{key}/")]


def announce(key: str, value: str) -> None:
    """Sets a value that `announced` returns on every process from now on.

    Args:
      key: used once in a run.
    """
    _coordination_client().key_value_set(f"lm2/{key}", value)


def announced(key: str) -> str | None:
    """Returns the value of `announce`, None if there is none yet."""
    try:
        return _coordination_client().key_value_try_get(f"lm2/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def require_same(facts: Mapping[str, object]) -> None:
    """Checks that all processes have the same facts, such as the config and a digest of the data.

    Raises:
      UserError: on every process, with each difference, if one of them differs from process 0.
    """
    if jax.process_count() == 1:
        return
    client, own = _coordination_client(), {key: repr(value) for key, value in facts.items()}
    if is_primary():
        client.key_value_set("lm2/facts", json.dumps(own))
    primary = json.loads(client.blocking_key_value_get("lm2/facts", int(1000 * CONNECT_TIMEOUT)))
    differences = [f"{key} is {own.get(key)} there, {primary.get(key)} on process 0"
                   for key in sorted(own.keys() | primary) if own.get(key) != primary.get(key)]
    if errors := barrier_with_errors("same facts", "; ".join(differences)):
        raise UserError("the processes do not belong to one run: " + "; ".join(sorted(errors)))


def _coordination_client():
    """JAX's client of the coordination service: key-value store and barriers.

    JAX has no public interface to them; `multihost_utils` has only barriers and gathers that
    run on the devices, which is not safe in a thread beside a training step.
    """
    try:
        from jax._src.distributed import global_state
        return global_state.client
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"jax {jax.__version__} has no jax._src.distributed.global_state.client,"
                           " which runs of several processes need") from error
