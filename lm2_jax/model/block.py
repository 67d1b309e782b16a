"""A decoder block: attention and memory side by side, then the mlp."""

from functools import partial

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from lm2_jax.config import ModelConfig
from lm2_jax.model import memory as memories
from lm2_jax.model.attention import Attention
from lm2_jax.model.linear import Linear, RMSNorm
from lm2_jax.partition import constrain

REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
BLOCK_INPUT = "block_input"  # name of the blocks' inputs for policies of jax.checkpoint


class MLP(nn.Module):
    """SwiGLU: (silu(x W_gate) * (x W_up)) W_down."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        wide = partial(Linear, "BTD,DF->BTF", (c.embed_dim, c.mlp_dim), ("embed", "mlp"),
                       dtype=c.dtype)
        gate_BTF = nn.silu(wide(name="gate_proj")(x_BTD))
        h_BTF = gate_BTF * wide(name="up_proj")(x_BTD)
        h_BTF = constrain(h_BTF, "act_batch", "act_len", "act_mlp")
        return Linear("BTF,FD->BTD", (c.mlp_dim, c.embed_dim), ("mlp", "embed"),
                      scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype, name="down_proj")(h_BTF)


class Block(nn.Module):
    """One block; `remembers` says whether a memory stands beside it.

    The carry is the stream x [B, S, D]: the segment, and memory tokens if the kind has them. The
    block's part of the memory's state and the window's keys and values come back changed. All
    tokens read the memory as it stood when the segment began.
    """

    config: ModelConfig
    remembers: bool
    deterministic: bool = True

    def __call__(self, x_BSD, state, *shared):
        if self.config.remat == "none":
            return self.run(x_BSD, state, *shared)
        # Where a whole segment is recomputed too, the blocks' inputs are kept: else the backward
        # pass would compute each block twice again, for the next block's input and for itself.
        x_BSD, state = checkpoint_name((x_BSD, state), BLOCK_INPUT)
        run = nn.remat(Block.run, prevent_cse=False, policy=REMAT[self.config.remat])
        return run(self, x_BSD, state, *shared)

    @nn.compact
    def run(self, x_BSD, state, window_BWKH, mask_BSS, valid_BS, rope_2SH):
        c = self.config
        norm = partial(RMSNorm, c.norm_eps, c.dtype)
        dropout = nn.Dropout(c.dropout, deterministic=self.deterministic)
        kind = memories.of(c) if self.remembers else None
        memory = kind.block(c, name="memory") if kind and kind.block else None
        x_BSD = constrain(x_BSD, "act_batch", "act_len", "act_embed")
        if memory:
            x_BSD = memory.pre_block(x_BSD, state)
        a_BSD = norm(name="attention_norm")(x_BSD)
        added_BSD, window_BSKH = Attention(c, name="attention")(
            a_BSD, window_BWKH, mask_BSS, rope_2SH)
        if memory:
            added_BSD += memory.read(a_BSD, state)
        x_BSD += dropout(added_BSD)
        if memory:
            state = memory.write(x_BSD, state, valid_BS)
        x_BSD += dropout(MLP(c, name="mlp")(norm(name="mlp_norm")(x_BSD)))
        if memory:
            state = memory.post_block(x_BSD, state, valid_BS)
        return x_BSD, (state, window_BSKH)
