"""What a training step costs a device at least, by formula, to compare a compiled step with.

Letters: B rows of a device and micro-batch, A micro-batches, S segments, T tokens of a segment,
L blocks of a device, P of them with a memory, D, F, V and M as in `lm2_jax/types.py`; n devices of
the batch axis that splits the parameters, t devices that split heads.
"""

import math
from dataclasses import dataclass

import jax

from lm2_jax import partition
from lm2_jax.config import Config
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.training.clock import flops_per_token

MASTER = 4  # bytes of a parameter, a moment, a gradient that is summed, and an entry of a bank


@dataclass(frozen=True)
class Costs:
    """Of one device and step.

    Attributes:
      flops: of the matrix products, without what is recomputed. Attention is not halved for
        causality, since XLA computes all of it.
      peak: bytes that have to be there at once: parameters, two moments, gradients, what the
        backward pass starts from, one block's weights and activations, and logits.
      moved: bytes to and from main memory. Affinities, of attention and of the memory, are taken to
        stay inside of the kernels that compute them.
      received: bytes from other devices: weights for each pass over a segment, the gradients of
        each segment, and activations where heads are split.
    """

    flops: float
    peak: float
    moved: float
    received: float


def training_step(config: Config, mesh: partition.AnyMesh, rows: int, segments: int,
                  parts: int) -> Costs:
    """The costs of a step on `rows` rows of `segments` segments in `parts` micro-batches.

    It assumes an LM2 memory or none, and parameters that are split over all of `n` and `t`.
    """
    c, S, A = config.model, segments, parts
    width = 2 if c.dtype == "bfloat16" else 4
    n, t = partition.ways(mesh, "embed"), partition.ways(mesh, "heads")
    B = rows // (partition.rows_per_step(mesh) * A)
    T, D, F, V = c.segment_length, c.embed_dim, c.mlp_dim, c.vocab_size
    M = c.memory.num_slots if c.memory.num_layers else 0
    stages = dict(mesh.shape).get(partition.STAGE, 1)
    L, P = c.num_layers / stages, c.memory.num_layers / stages
    params = abstract_params(LanguageModel(c), mesh)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    tables = V * D * (1 if c.tie_embeddings else 2)
    blocks = (total - tables) * width / t / stages  # bytes of its blocks' weights for a pass
    passes = S * A
    again = 1 if c.remat == "full" or config.train.remat_segments else 0

    # The half of attention that `flops_per_token` leaves out.
    attention = 2 * T * c.num_heads * c.head_dim * c.num_layers
    tokens = rows * S * T / mesh.size
    flops = tokens * (flops_per_token(c) + 3 * attention)

    # Activations of one block that its products read and write, for a token or a slot.
    heads = (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    of_token = 6 * D + (2 * heads + 5 * F) / t
    of_memory = T * (6 * D + 6 * D / t) + M * D * (2 * MASTER / width + 10 / t) if P else 0.0
    activations = width * B * (L * T * of_token + P * of_memory)
    logits = B * T * V / t * (MASTER + width)
    states = P * B * M * D * MASTER

    split = n * t * stages
    optimizer = MASTER * total / split
    chunk = config.train.loss_chunk_tokens or T
    # What a block keeps for its backward pass, beside its input.
    keys = 1 if c.memory.tied_addressing else 2
    products = width * B * (L * T * (2 * D + (heads - c.num_heads * c.head_dim + 2 * F) / t)
                            + P * (5 * T + (5 + keys) * M) * D / t)
    kept = {"full": 0.0, "dots": products, "none": max(products, 0.7 * activations)}[c.remat]
    peak = (optimizer * (4 if A == 1 else 5) + S * ((L + 1) * B * T * D * width + states)
            + kept * (1 if config.train.remat_segments else S) + 2 * blocks / L
            + width * tables / t + logits * chunk / T + activations / L)
    moved = (passes * ((2 + again) * 2 * blocks + (3 + again) * activations + 4 * logits
                       + 2 * MASTER * total / split) + 8 * optimizer)
    gathered = passes * 3 * blocks + A * 3 * width * tables / t
    exchanged, handed = 0.0, 0.0
    if t > 1:  # two sums of activations a block and pass, two more with a memory, and the bank
        exchanged = passes * (2 + again) * 2 * B * ((2 * L + 2 * P) * T * D * width
                                                    + P * M * D * MASTER / 2)
    if stages > 1:  # what one stage hands to the next, and its gradient back
        handed = passes * 2 * B * T * D * width
    received = gathered * (n - 1) / n + exchanged * (t - 1) / t + handed
    copies = partition.rows_per_step(mesh) // n  # of the parameters, whose gradients are summed
    received += A * 2 * MASTER * total / split * (copies - 1) / copies
    return Costs(flops, peak, moved, received)
