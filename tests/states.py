"""Training states of random bits, and checkpoints of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm2_jax import partition
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import CheckpointConfig

MESHES = [partition.make_mesh(dict(data=2, fsdp=2, tensor=2)), partition.make_mesh(dict(fsdp=8))]


def random_bits(seed, mesh):
    """A sharded state of random bits, so with infinities, nan and -0."""
    rng = np.random.default_rng(seed)

    def draw(shape, dtype, *names):
        bits = rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.frombuffer(bits, dtype).reshape(shape)
        return jax.make_array_from_callback(shape, partition.named(mesh, *names),
                                            lambda index: array[index])

    params = {"kernel": draw((16, 8, 4), np.float32, "embed", "heads", None),
              "half": draw((8, 8), jnp.bfloat16, "embed", None),
              "scale": draw((8,), np.float32, "norm"), "one": draw((), np.float32)}
    adam = optax.ScaleByAdamState(count=draw((), np.int32), mu=params, nu=params)
    key = jax.random.wrap_key_data(draw((2,), np.uint32, None))
    return params, {"step": draw((), np.int32), "opt_state": (optax.EmptyState(), (adam,)),
                    "rng": key}


def bits(tree):
    def one(leaf):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if typed else leaf)
        return str(leaf.dtype), array.shape, array.tobytes()

    return jax.tree.map(one, tree)


def abstract(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
                        tree)


def saved(workdir, steps, **options):
    """Saves the state of seed N as step N, for each step."""
    checkpointer = Checkpointer(workdir, CheckpointConfig(**options))
    for step in steps:
        checkpointer.save(step, *random_bits(step, MESHES[0]), {"next_step": step})
        checkpointer.wait()
    return checkpointer
