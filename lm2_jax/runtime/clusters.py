"""The place of this process in a run: given by the user, or found in a cluster's environment."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from lm2_jax.errors import UserError
from lm2_jax.runtime.rendezvous import split_address

CONNECT_TIMEOUT, HEARTBEAT_TIMEOUT = 300.0, 100.0  # seconds


@dataclass(frozen=True)
class ProcessInfo:
    """The place of this process in a run of several.

    Attributes:
      coordinator: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this process, from 0.
      local_devices: indices of the host's devices that this process uses; None = all.
      detected: whether the environment of a cluster says so, not the user.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: tuple[int, ...] | None = None
    detected: bool = field(default=False, compare=False)


def find_process_info(coordinator: str | None = None, num_processes: int | None = None,
                      process_id: int | None = None, environment: Mapping[str, str] = os.environ
                      ) -> ProcessInfo | None:
    """Finds the place of this process in a run.

    Reads the arguments, else LM2_COORDINATOR, LM2_NUM_PROCESSES and LM2_PROCESS_ID, else the
    environment of SLURM, GKE or a TPU pod.

    Returns:
      None for a run of one process.

    Raises:
      UserError: if only some of the three are given, or their values are not possible.
    """
    env = environment
    address = coordinator or env.get("LM2_COORDINATOR", "")
    given = {"coordinator": address,
             "num-processes": env.get("LM2_NUM_PROCESSES", "") if num_processes is None
             else num_processes,
             "process-id": env.get("LM2_PROCESS_ID", "") if process_id is None else process_id}
    missing = [name for name, value in given.items() if value == ""]
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
    split_address(address)
    return ProcessInfo(address, count, index)


def timeouts(environment: Mapping[str, str] = os.environ) -> dict[str, float]:
    """The timeouts of `initialize` that LM2_CONNECT_TIMEOUT and LM2_HEARTBEAT_TIMEOUT set, in
    seconds.

    Raises:
      UserError: if one is not a positive number.
    """
    found = {}
    for argument in ("connect_timeout", "heartbeat_timeout"):
        variable = f"LM2_{argument.upper()}"
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            found[argument] = float(text)
        except ValueError:
            found[argument] = 0.0
        if not 0 < found[argument] < float("inf"):
            raise UserError(f"{variable} is {text!r}; it must be a positive number of seconds")
    return found


def _in_cluster(env: Mapping[str, str]) -> bool:
    """Whether a scheduler started several processes.

    LM2_DISTRIBUTED=1 states that it did (a TPU pod that only its metadata server knows of), 0 that
    it did not.
    """
    if "LM2_DISTRIBUTED" in env:
        return env["LM2_DISTRIBUTED"] not in ("", "0")
    hosts = env.get("TPU_WORKER_HOSTNAMES", "") + env.get("TPU_PROCESS_ADDRESSES", "")
    tasks = env.get("SLURM_NTASKS", "")
    return ("," in hosts or _several_slices(env)
            or "SLURM_PROCID" in env and tasks.isdecimal() and int(tasks) > 1)


def _several_slices(env: Mapping[str, str]) -> bool:
    """Whether the environment is that of a TPU slice among several, as GKE's JobSet and queued
    resources set it.

    Raises:
      UserError: if it says so only in part; each slice would then wait for hosts of its own.
    """
    count, index, coordinator = (env.get(f"MEGASCALE_{name}", "") for name in (
        "NUM_SLICES", "SLICE_ID", "COORDINATOR_ADDRESS"))
    if count in ("", "1"):
        return bool(coordinator)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count) and coordinator):
        raise UserError(
            f"MEGASCALE_NUM_SLICES is {count!r}, MEGASCALE_SLICE_ID {index!r} and "
            f"MEGASCALE_COORDINATOR_ADDRESS {coordinator!r}; they must be the number of slices, a "
            "number below it, and the first host of slice 0 (LM2_DISTRIBUTED=0 for a run of one "
            "process)")
    return True


def _cluster_process_info(env: Mapping[str, str]) -> ProcessInfo:
    """What JAX reads from the environment of the scheduler.

    JAX has no public function that returns what `jax.distributed.initialize` would use.
    """
    seconds = math.ceil(timeouts(env).get("connect_timeout", CONNECT_TIMEOUT))
    try:
        from jax._src.clusters import ClusterEnv

        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, seconds)
    except (ImportError, AttributeError, TypeError):  # another version of JAX
        found = (None, None, None, None)
    coordinator, count, index, local = found
    if coordinator is None or count is None or index is None:
        raise UserError("this environment looks like a cluster (LM2_DISTRIBUTED, SLURM_NTASKS or "
                        "TPU_WORKER_HOSTNAMES), but JAX cannot tell its processes; give "
                        "--coordinator, --num-processes and --process-id, or set LM2_DISTRIBUTED=0 "
                        "for a run of one process")
    return ProcessInfo(coordinator, int(count), int(index),
                       None if local is None else tuple(local), detected=True)
