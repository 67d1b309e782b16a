"""Prints a digest of the global batch for each of several meshes, as one of several processes.

tests/test_hosts.py compares the digests of runs with different numbers of processes.
"""

import hashlib
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm2_jax import partition
from lm2_jax.config import files
from lm2_jax.data import feed
from lm2_jax.data.babilong import batches, corpus
from lm2_jax.runtime import clusters, processes

MESHES = ((4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 1, 2), (1, 2, 2))


def main() -> None:
    if os.environ.get("LM2_COORDINATOR"):
        processes.initialize(clusters.find_process_info())
    else:
        jax.config.update("jax_num_cpu_devices", 4)
    config = files.load_config("configs/tiny.py")
    tokens = corpus.make_tokenizer(config.data, config.seed)
    path = os.path.join(os.environ["FOLDER"], f"tokenizer{jax.process_index()}.json")
    tokens.save(path)
    maker = batches.SampleMaker(config.data, corpus.training(config, corpus.tokenizer.load(path)),
                                 config.model.segment_length)
    for shape in MESHES:
        mesh = partition.make_mesh(dict(zip(partition.MESH_AXES, shape, strict=True)))
        sharding = partition.named(mesh, "act_batch", None)
        rows = {8: feed.local_rows(sharding, 8)}
        source = batches.BabilongBatches(maker, config.seed, 8, 50, rows)
        digest = hashlib.sha256()
        for step in (0, 36):
            batch = feed.to_devices(source[step], rows[8], 8, sharding)
            for array in jax.tree.leaves(batch):
                whole = multihost_utils.process_allgather(array, tiled=True)
                assert whole.shape[0] == 8
                digest.update(np.ascontiguousarray(whole))
        print(f"{jax.process_index()} {shape} {len(rows[8])} rows {digest.hexdigest()}",
              flush=True)
    processes.shutdown()


if __name__ == "__main__":
    main()
