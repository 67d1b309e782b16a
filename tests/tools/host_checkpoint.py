"""Saves or restores a known state, as one of several processes with 8 devices in all.

    python tests/tools/host_checkpoint.py save|restore FOLDER

Saves a known state on one mesh; or restores it on another, and compares each shard of this process
with that state.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np

from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import CheckpointConfig
from lm2_jax.runtime import clusters, processes


def shards(tree) -> list[bytes]:
    """Returns the bytes of each shard on this process's devices."""
    def data(leaf):
        typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaf = jax.random.key_data(leaf) if typed else leaf
        return [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]

    return [piece for leaf in jax.tree.leaves(tree) for piece in data(leaf)]


def main(what: str, folder: str) -> None:
    if os.environ.get("LM2_COORDINATOR"):
        processes.initialize(clusters.find_process_info())
    else:
        jax.config.update("jax_num_cpu_devices", 8)
    sys.path.append(str(Path(__file__).parents[1]))
    from states import MESHES, random_bits  # after the devices are configured

    if what == "save":
        checkpointer = Checkpointer(folder, CheckpointConfig())
        checkpointer.save(4, *random_bits(4, MESHES[0]), {"next_step": 4})
        checkpointer.wait()
        checkpointer.close()
    else:
        restored = Checkpointer(folder).restore(4, *random_bits(0, MESHES[1]))
        wanted = shards(random_bits(4, MESHES[1]))
        assert shards(restored) == wanted
        print(f"{len(wanted)} shards of process {jax.process_index()} are alike", flush=True)
    processes.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
