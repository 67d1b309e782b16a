"""Prints what the training steps of some configs cost, by the compiler alone.

    python tests/tools/costs_of_steps.py [--write]
    python tests/tools/costs_of_steps.py --tpu [--write]     with the extra tpu

The steps are those of tiny and quickstart on one CPU device and on 2 x 2 x 2 of them; with --tpu,
that of lm2_1b7 on a v5e:4x4. --write also stores what was found in tests/costs/jax_X.Y.json, for
this version of jax, beside the steps that are there. The tests compare with these files.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax

from lm2_jax import partition
from lm2_jax.config import Config, files
from lm2_jax.report import compilation, programs
from lm2_jax.runtime import topologies

TOLERANCE = 0.05
ON_TPU = "lm2_1b7 on v5e:4x4"
MESHES = {"one device": {}, "2 x 2 x 2 devices": {"data": 2, "fsdp": 2, "tensor": 2}}


def costs(config: Config, mesh: dict[str, int], topology: topologies.Topology) -> dict[str, int]:
    """The costs of the training step of the heaviest stage of the curriculum.

    Returns:
      "flops" of a device, "peak" bytes of it, "collectives" in the program, their "executions" in a
      run, "instructions" and, on a TPU, bytes of the "program".
    """
    placed = partition.make_mesh(mesh, topology.devices)
    with partition.use(placed):
        traced, step = programs.training(config, placed)
        step = programs.compiled(traced, step, topology, placed)
    totals = compilation.totals(step).values()
    found = {"flops": step.flops, "peak": step.bytes["peak"],
             "collectives": sum(total["in_program"] for total in totals),
             "executions": sum(total["per_run"] for total in totals),
             "instructions": step.instructions}
    return found | ({"program": step.bytes["program"]} if step.bytes["program"] else {})


def on_cpus() -> dict[str, dict[str, int]]:
    """The costs of the steps on CPUs, by the name of the step, each of the stage with the most
    tokens whose rows divide over four devices."""
    found = {}
    for name in ("tiny", "quickstart"):
        config = files.load_config(name, {"model.vocab_size": "256"})
        _, segments, rows = max(
            (segments * rows, segments, rows) for (_, segments, *_), rows in
            zip(config.data.curriculum, config.batch_sizes(), strict=True) if rows % 4 == 0)
        data = dataclasses.replace(config.data, curriculum=((0, segments, rows),))
        for where, mesh in MESHES.items():
            devices = topologies.find("cpu:8" if mesh else "cpu:1")
            found[f"{name} on {where}"] = costs(dataclasses.replace(config, data=data), mesh,
                                                devices)
    return found


def on_tpu() -> dict[str, dict[str, int]]:
    """The costs of the step of lm2_1b7 on a v5e:4x4, compiled with the least effort, which takes a
    seventh of the time and leaves FLOPs, collectives and the peak as they are."""
    programs.compile_quickly()
    config = files.load_config("lm2_1b7", {})
    return {ON_TPU: costs(config, {"fsdp": 16}, topologies.find("v5e:4x4"))}


def in_a_process(*arguments: str) -> dict[str, dict[str, int]]:
    """What this program prints: a compiler's options are those of its process."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, text=True,
                          stdout=subprocess.PIPE, env=environment | {
                              "PYTHONPATH": str(root), "JAX_ENABLE_COMPILATION_CACHE": "false"})
    return json.loads(done.stdout)


def record() -> Path:
    """The file of this version of jax."""
    version = ".".join(jax.__version__.split(".")[:2])
    return Path(__file__).parents[1] / "costs" / f"jax_{version}.json"


def stored() -> dict[str, dict[str, int]]:
    """What is on record for this version of jax; {} if nothing is."""
    return json.loads(record().read_text("utf-8")) if record().exists() else {}


def changes(found: dict[str, dict[str, int]], known: dict[str, dict[str, int]]) -> list[str]:
    """A line for each cost that differs from the stored one by more than TOLERANCE."""
    lines = []
    for step, values in found.items():
        for name in {**values, **known.get(step, {})}:
            now, before = values.get(name, 0), known.get(step, {}).get(name, 0)
            if abs(now - before) > TOLERANCE * before:
                more = f" ({now / before - 1:+.1%})" if before else ""
                lines.append(f"{step}: {name} {now:,}, on record {before:,}{more}")
    return lines


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", 8)
    found = on_tpu() if "--tpu" in sys.argv else on_cpus()
    if "--write" in sys.argv:
        record().parent.mkdir(exist_ok=True)
        record().write_text(json.dumps(stored() | found, indent=1) + "\n", "utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
