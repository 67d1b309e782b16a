"""Several processes as one run: how they start, agree, and end together."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state  # its service is not public elsewhere
from jax.experimental import multihost_utils

from lm2_jax.errors import UserError
from lm2_jax.runtime.rendezvous import Rendezvous, split_address

T = TypeVar("T")
CONNECT_TIMEOUT, HEARTBEAT_TIMEOUT = 300.0, 100.0
SECONDS_TO_HEAR = 1.0

_rendezvous: Rendezvous | None = None


@dataclass(frozen=True)
class ProcessInfo:
    """Where this process stands in the run.

    Attributes:
      coordinator: HOST:PORT of process 0.
      local_devices: of the host, those for this process; None = all.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: tuple[int, ...] | None = None


def find_process_info(coordinator: str | None = None, num_processes: int | None = None,
               process_id: int | None = None, environment: Mapping[str, str] = os.environ
               ) -> ProcessInfo | None:
    """From arguments, else LM2_COORDINATOR, LM2_NUM_PROCESSES, LM2_PROCESS_ID, else the cluster.

    Returns:
      None for a run of one process.

    Raises:
      ValueError: some of the three are given and not all, or cannot be right.
    """
    env = environment
    given = {"coordinator": coordinator or env.get("LM2_COORDINATOR"),
             "num-processes": env.get("LM2_NUM_PROCESSES") if num_processes is None
             else num_processes,
             "process-id": env.get("LM2_PROCESS_ID") if process_id is None else process_id}
    missing = [name for name, value in given.items() if value in (None, "")]
    if len(missing) == len(given):
        return _cluster_process_info(env) if _in_cluster(env) else None
    if missing:
        variable = "LM2_" + missing[0].upper().replace("-", "_")
        raise UserError(f"--{missing[0]} (or {variable}) is missing; a run of several processes "
                         "needs --coordinator, --num-processes and --process-id")
    try:
        count, index = int(given["num-processes"]), int(given["process-id"])
    except ValueError:
        raise UserError(f"--num-processes is {given['num-processes']!r} and --process-id "
                         f"{given['process-id']!r}; they must be whole numbers") from None
    if not 0 <= index < count:
        raise UserError(f"--process-id is {index} of --num-processes {count}; it must be from 0 "
                         f"to {count - 1}")
    split_address(given["coordinator"])
    return ProcessInfo(given["coordinator"], count, index)


def initialize(info: ProcessInfo | None, connect_timeout: float = CONNECT_TIMEOUT,
               heartbeat_timeout: float = HEARTBEAT_TIMEOUT, command: str = "lm2") -> None:
    """Joins the processes; from here on jax.devices() are those of all.

    If one ends before `finish`, the others say so and end with status 1, at once if its host lives
    on, else after the heartbeat's time.
    """
    global _rendezvous
    if info is None:
        return

    def lost(line: str) -> None:
        print(f"{command}: {line}. This process ends too; the same command goes on from the "
              "last checkpoint", file=sys.stderr, flush=True)
        os._exit(1)

    def heard(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if info.num_processes > 1:
        _rendezvous = Rendezvous(info.coordinator, info.num_processes, info.process_id,
                           connect_timeout, lost, heard)
    jax.distributed.initialize(
        info.coordinator, info.num_processes, info.process_id,
        local_device_ids=info.local_devices, cluster_detection_method="deactivate",
        initialization_timeout=int(connect_timeout),
        heartbeat_timeout_seconds=int(heartbeat_timeout))


def shutdown() -> None:
    """Every process: after its last line of work."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("finish")
        _rendezvous.leave()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def abort(reason: str, status: int) -> None:
    """Ends this process of several: the others are told why, and end too.

    Python's own end would wait for them, and they for this one. If it failed since another one
    is gone, that is what is said.
    """
    if _rendezvous:
        time.sleep(SECONDS_TO_HEAR)
        _rendezvous.leave(reason)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)


def is_joined() -> bool:
    """Returns True if this is one of several processes that `initialize` has joined."""
    return _rendezvous is not None


def is_primary() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def name() -> str:
    """This process, for a message."""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def print_on_primary(line: str) -> None:
    """Prints a line here, and on the first process."""
    print(line, file=sys.stderr, flush=True)
    if _rendezvous:
        _rendezvous.tell(line)


def primary_first(action: Callable[[], T]) -> T:
    """`action` on process 0, and then on the others, who find what it wrote."""
    result = action() if is_primary() else None
    barrier("leader first")
    return result if is_primary() else action()


def broadcast_from_primary(value: int) -> int:
    """Process 0's value, everywhere."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def barrier(what: str) -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def barrier_with_errors(what: str, mine: str = "", timeout: float = 1200.0) -> list[str]:
    """Waits until every process has called this, and tells all of them what any has against it.

    Safe in threads, unlike a barrier of devices.

    Args:
      what: a name, used once in a run.
      mine: what this process has against it; "" = nothing.
      timeout: seconds to wait for the others.
    """
    if jax.process_count() == 1:
        return [mine] if mine else []
    client = global_state.client
    if mine:
        client.key_value_set(f"lm2/{what}/{jax.process_index()}", f"{name()}: {mine}")
    client.wait_at_barrier(f"lm2/{what}", int(1000 * timeout))
    return [value for _, value in client.key_value_dir_get(f"lm2/{what}/")]


def require_same(facts: Mapping[str, object]) -> None:
    """Raises a ValueError on every process if one has other facts than the first: another config,
    say, or other data, with which it would train without a word."""
    if jax.process_count() == 1:
        return
    client, mine = global_state.client, {key: repr(value) for key, value in facts.items()}
    if is_primary():
        client.key_value_set("lm2/alike", json.dumps(mine))
    first = json.loads(client.blocking_key_value_get("lm2/alike", int(1000 * CONNECT_TIMEOUT)))
    unlike = [f"{key} is {mine.get(key)} there, {first.get(key)} on process 0"
              for key in sorted(mine.keys() | first) if mine.get(key) != first.get(key)]
    if said := barrier_with_errors("alike", "; ".join(unlike)):
        raise UserError("the processes are not of one run: " + "; ".join(sorted(said)))


def _in_cluster(env: Mapping[str, str]) -> bool:
    """Whether a scheduler started several processes; LM2_DISTRIBUTED=1 says so too (a TPU pod of
    which only the metadata server knows), 0 that it did not."""
    if "LM2_DISTRIBUTED" in env:
        return env["LM2_DISTRIBUTED"] not in ("", "0")
    hosts = env.get("TPU_WORKER_HOSTNAMES", "") + env.get("TPU_PROCESS_ADDRESSES", "")
    tasks = env.get("SLURM_NTASKS", "")
    return ("," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in env
            or "SLURM_PROCID" in env and tasks.isdecimal() and int(tasks) > 1)


def _cluster_process_info(env: Mapping[str, str]) -> ProcessInfo:
    """What JAX reads of the scheduler's environment."""
    from jax._src.clusters import ClusterEnv  # nothing public says what initialize() would take

    seconds = int(float(env.get("LM2_CONNECT_TIMEOUT") or CONNECT_TIMEOUT))
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
    coordinator, count, index, local = found
    if None in (coordinator, count, index):
        raise UserError("this environment looks like a cluster (LM2_DISTRIBUTED, SLURM_NTASKS or "
                         "TPU_WORKER_HOSTNAMES), but JAX cannot tell its processes; give "
                         "--coordinator, --num-processes and --process-id, or LM2_DISTRIBUTED=0")
    return ProcessInfo(coordinator, int(count), int(index), None if local is None else tuple(local))
