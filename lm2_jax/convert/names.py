"""Which tensor of a checkpoint of the transformers library holds which of our parameters.

A Llama's weight matrices are stored as [out, in]; our kernels are [in axes..., out axes...], those
of equal blocks stacked on a first axis. A memory's parameters are stored as they are, one tensor
for each block, under our names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flax import traverse_util

from lm2_jax.convert.tensors import Tensors
from lm2_jax.types import Params

STACKS = ("memory_blocks", "blocks")  # scanned: the first axis of their parameters is the block
EMBEDDING, UNEMBEDDING = "model.embed_tokens.weight", "lm_head.weight"
# {our name: (name in transformers, number of input axes of the kernel, 0 = stored as it is)}
OUTSIDE = {
    "embedding": (EMBEDDING, 0),
    "final_norm/scale": ("model.norm.weight", 0),
    "lm_head/kernel": (UNEMBEDDING, 1),
}
IN_BLOCK = {
    "attention_norm/scale": ("input_layernorm.weight", 0),
    "mlp_norm/scale": ("post_attention_layernorm.weight", 0),
    "attention/q_proj/kernel": ("self_attn.q_proj.weight", 1),
    "attention/k_proj/kernel": ("self_attn.k_proj.weight", 1),
    "attention/v_proj/kernel": ("self_attn.v_proj.weight", 1),
    "attention/o_proj/kernel": ("self_attn.o_proj.weight", 2),
    "mlp/gate_proj/kernel": ("mlp.gate_proj.weight", 1),
    "mlp/up_proj/kernel": ("mlp.up_proj.weight", 1),
    "mlp/down_proj/kernel": ("mlp.down_proj.weight", 1),
}


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, and the parameter that it is.

    Attributes:
      name: of the tensor.
      path: of the parameter in the tree of variables.
      block: index along the parameter's first axis; None if it is not stacked.
      shape: of the parameter, without the axis of the blocks.
      num_in: number of input axes of a kernel that is stored as [out, in]; 0 = stored as it is.
    """

    name: str
    path: tuple[str, ...]
    block: int | None
    shape: tuple[int, ...]
    num_in: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if not self.num_in:
            return self.shape
        return (int(np.prod(self.shape[self.num_in:])), int(np.prod(self.shape[:self.num_in])))

    def to_stored(self, parameter: np.ndarray) -> np.ndarray:
        """Returns the tensor of the parameter, [shape], of one block."""
        if not self.num_in:
            return parameter
        return parameter.reshape(self.stored_shape[::-1]).T

    def read(self, tensors: Tensors, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part of the parameter of one block, in the dtype of the tensor.

        Only the rows and columns of the part are read from the file.
        """
        if not self.num_in:
            return tensors.read(self.name, *index)
        inner, outer = self.shape[:self.num_in], self.shape[self.num_in:]
        in_index, out_index = index[:self.num_in], index[self.num_in:]
        part = tensors.read(self.name, _flat(outer, out_index), _flat(inner, in_index))
        part = part.reshape(-1, *outer[1:], *(part.shape[1] // int(np.prod(inner[1:])), *inner[1:]))
        part = part[(slice(None), *out_index[1:], slice(None), *in_index[1:])]
        return np.moveaxis(part, range(len(outer)), range(len(inner), part.ndim))


def stored(params: Params) -> Iterator[Stored]:
    """Yields the tensors of a tree of variables (arrays or jax.ShapeDtypeStruct)."""
    flat = traverse_util.flatten_dict(params)
    with_memory = max((leaf.shape[0] for path, leaf in flat.items() if path[1] == STACKS[0]),
                      default=0)
    for path, leaf in flat.items():
        _, stack, *rest = path
        if stack not in STACKS:
            name, num_in = OUTSIDE.get("/".join(path[1:]), ("model." + ".".join(path[1:]), 0))
            yield Stored(name, path, None, leaf.shape, num_in)
            continue
        name, num_in = IN_BLOCK.get("/".join(rest), (".".join(rest), 0))
        first = with_memory if stack == STACKS[1] else 0
        for block in range(leaf.shape[0]):
            yield Stored(f"model.layers.{first + block}.{name}", path, block, leaf.shape[1:],
                         num_in)


def _flat(shape: tuple[int, ...], index: tuple[slice, ...]) -> slice:
    """The slice of the flattened axes that covers a slice of the first of them."""
    start, stop, _ = index[0].indices(shape[0])
    size = int(np.prod(shape[1:]))
    return slice(start * size, stop * size)
