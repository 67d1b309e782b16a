"""Devices to compile for without having them: TPU slices, H100s, virtual CPUs, abstract GPUs."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from lm2_jax.errors import UserError

EXAMPLES = "v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8, cpu:8, gpu:8"
GIB = 2**30
TPU_MEMORY = {"TPU v4": 32 * GIB, "TPU v5 lite": 16 * GIB, "TPU v5e": 16 * GIB,
              "TPU v5": 95 * GIB, "TPU v5p": 95 * GIB, "TPU v6 lite": 32 * GIB,
              "TPU v6e": 32 * GIB}
H100 = Path(__file__).with_name("h100.txt")  # as XLA's compiler wants a GPU described
H100_MEMORY = 84_942_979_072


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as given by the user.
      devices: to build a mesh from; their number if they are abstract.
      kind: of one device, for example "TPU v5 lite".
      memory: bytes of one device; None = unknown.
      lowering: platforms to lower for if they have no compiler on this machine; () = compile.
    """

    name: str
    devices: Sequence[jax.Device] | int
    kind: str
    memory: int | None = None
    lowering: tuple[str, ...] = ()


def find(name: str, slices: int = 1) -> Topology:
    """Returns the devices of "v5e:4x4" (a TPU slice), "h100:8" (GPUs of one host), "cpu:8" (virtual
    CPUs) or "gpu:8" (abstract).

    Args:
      slices: number of such TPU slices, which reach each other over the network.

    Raises:
      UserError: for another name, or if libtpu or JAX for CUDA is needed and not installed.
    """
    if slices < 1 or slices > 1 and name.startswith(("cpu", "gpu", "h100")):
        raise UserError(f"--slices is {slices}; it must be at least 1, and 1 for {name}")
    jax.config.update("jax_platforms", "cpu")  # devices of this machine are not used
    platform, _, size = name.partition(":")
    if platform in ("cpu", "gpu", "h100"):
        if not size.isdigit() or int(size) < 1:
            raise UserError(f"--topology is {name!r}; it must have the form {platform}:8")
        if platform == "gpu":
            return Topology(name, int(size), "GPU (abstract)", lowering=("cuda",))
        if platform == "h100":
            devices = _h100s(name, int(size))
            return Topology(name, devices, devices[0].device_kind, H100_MEMORY)
        return Topology(name, _virtual_cpus(int(size)), "CPU (virtual)")
    if not re.fullmatch(r"v\d+[a-z]*:\d+(x\d+)*", name):
        raise UserError(f"--topology is {name!r}; it must be as one of {EXAMPLES}")
    devices = _tpu_slices(name, slices)
    kind = devices[0].device_kind
    name = name if slices == 1 else f"{slices} slices of {name}"
    return Topology(name, devices, kind, TPU_MEMORY.get(kind))


def _tpu_slices(name: str, count: int) -> list:
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(f"--topology={name} needs the TPU compiler, which is not installed: "
                         "pip install 'lm2_jax[tpu]'") from None
    from jax.experimental import topologies

    # No chip is used: other processes may use them, and no metadata server need be asked.
    for variable, value in (("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"), ("TPU_SKIP_MDS_QUERY", "1"),
                            ("TPU_WORKER_HOSTNAMES", "localhost")):
        os.environ.setdefault(variable, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name,
                                                 num_slices=count).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "INVALID_ARGUMENT" not in reason:
            raise UserError(f"--topology={name}: libtpu says {reason}") from None
        raise UserError(f"--topology is {name!r}; it must be as one of {EXAMPLES} (libtpu says "
                         f"{reason})") from None


def _h100s(name: str, count: int) -> list:
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(
            platform="cuda", topology=f"1x1x{count}",
            target_config=H100.read_text("utf-8")).devices)
    except NotImplementedError:
        raise UserError(f"--topology={name} needs the compiler for GPUs, which is not installed: "
                        "pip install 'lm2_jax[cuda]'") from None


def _virtual_cpus(count: int) -> list:
    """The first `count` CPU devices. They can be made only if JAX has not been initialised."""
    if jax.config.jax_num_cpu_devices < count:  # type: ignore[attr-defined]  # set at run time
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass  # JAX is initialised
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology=cpu:{count}: this process has {len(devices)} CPU devices")
    return devices[:count]
