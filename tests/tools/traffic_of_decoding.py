"""Prints the memory traffic of a step of decoding on an H100, in units of the parameters' bytes.

    python tests/tools/traffic_of_decoding.py

The step is compiled for one H100 and not run, for one row. Everything else that it reads is small.
"""

import jax

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.generation import engine
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.partition import MESH_AXES
from lm2_jax.report import traffic
from lm2_jax.runtime import topologies

CONFIG = ModelConfig(
    vocab_size=1024, embed_dim=1024, num_layers=4, num_heads=16, num_kv_heads=4, mlp_dim=4096,
    segment_length=128, dtype="bfloat16",
    memory=MemoryConfig(num_slots=16, num_heads=4, num_layers=4))


def main() -> None:
    devices = topologies.find("h100:1").devices
    mesh = jax.make_mesh((1, 1, 1), MESH_AXES, devices=devices,
                         axis_types=(jax.sharding.AxisType.Auto,) * 3)
    with partition.use(mesh):
        params = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, CONFIG.dtype, sharding=a.sharding),
            abstract_params(LanguageModel(CONFIG), mesh))
        step = engine.traced(LanguageModel(CONFIG), params, 1, 0, mesh)["next token"]
        moved = traffic.of_program(step.lower().compile().as_text()).bytes
    print(moved / sum(2 * leaf.size for leaf in jax.tree.leaves(params)))


if __name__ == "__main__":
    main()
