"""python tests/collectives_of_step.py [--write]

Prints what the devices exchange in a training step on a mesh of data x fsdp x tensor = 2 x 2 x 2:
a line for each part of the model, kind and shape of the result on a device. --write puts it on
record, for this version of jax, as tests/collectives/jax_X.Y.json.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 8)

from training import CONFIG, MODEL, B, S, T  # noqa: E402

from lm2_jax import partition  # noqa: E402
from lm2_jax.commands.compile import training_step  # noqa: E402
from lm2_jax.report.collectives import describe  # noqa: E402

WASTE_ABOVE = "above: what splits anew by way of the whole; below: the step"  # on stderr


def waste() -> None:
    """Compiles what cannot go from one split to the next but by way of the whole: whether the
    compiler's warning is heard at all."""
    mesh = partition.make_mesh({"data": 4, "fsdp": 1, "tensor": 2})
    before, after = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (
        ("tensor", None, "data"), (None, ("data", "tensor"), None)))
    x = jax.ShapeDtypeStruct((16, 16, 16), jnp.float32, sharding=before)
    jax.jit(lambda x: x + x, out_shardings=after).lower(x).compile()


def found() -> dict:
    mesh = partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with partition.use(mesh):
        step = training_step(MODEL, CONFIG, mesh, rows=B, segments=S)
        hlo = step.lower().compile().as_text()
    return {"step": f"{B} rows of {S} segments of {T} tokens, 2 x 2 x 2 devices",
            "collectives": describe(hlo)}


if __name__ == "__main__":
    waste()
    os.write(2, f"{WASTE_ABOVE}\n".encode())
    text = json.dumps(found(), indent=1) + "\n"
    if "--write" in sys.argv:
        version = ".".join(jax.__version__.split(".")[:2])
        record = Path(__file__).parent / "collectives" / f"jax_{version}.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(text, "utf-8")
    print(text, end="")
