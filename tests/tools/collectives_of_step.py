"""Prints the collectives of a training step on a mesh of data x fsdp x tensor = 2 x 2 x 2.

    python tests/tools/collectives_of_step.py [--write]

There is a line for each part of the model, kind of collective and shape of its result on a device.
--write also stores them as tests/collectives/jax_X.Y.json, for this version of jax.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 8)
TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))

from training import CONFIG, MODEL, B, S, T  # noqa: E402

from lm2_jax import partition  # noqa: E402
from lm2_jax.report.collectives import describe  # noqa: E402
from lm2_jax.report.programs import training_step  # noqa: E402

SEPARATOR = "above: a full rematerialization; below: the step"  # on stderr


def compile_full_rematerialization() -> None:
    """Compiles a resharding that needs the full array, to see that the compiler warns of it."""
    mesh = partition.make_mesh({"data": 4, "fsdp": 1, "tensor": 2})
    before, after = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (
        ("tensor", None, "data"), (None, ("data", "tensor"), None)))
    x = jax.ShapeDtypeStruct((16, 16, 16), jnp.float32, sharding=before)
    jax.jit(lambda x: x + x, out_shardings=after).lower(x).compile()


def collectives() -> dict:
    mesh = partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with partition.use(mesh):
        step = training_step(MODEL, CONFIG, mesh, rows=B, segments=S)
        hlo = step.lower().compile().as_text()
    return {"step": f"{B} rows of {S} segments of {T} tokens, 2 x 2 x 2 devices",
            "collectives": describe(hlo)}


if __name__ == "__main__":
    compile_full_rematerialization()
    os.write(2, f"{SEPARATOR}\n".encode())
    text = json.dumps(collectives(), indent=1) + "\n"
    if "--write" in sys.argv:
        version = ".".join(jax.__version__.split(".")[:2])
        record = TESTS / "collectives" / f"jax_{version}.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(text, "utf-8")
    print(text, end="")
