"""A decoder block: attention with an optional memory in parallel, followed by the MLP."""

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
BLOCK_INPUT = "block_input"  # checkpoint name of the block inputs, for remat policies


class MLP(nn.Module):
    """SwiGLU, (silu(x W_gate) * (x W_up)) W_down, from [B, T, D] to [B, T, D]."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        up = partial(Linear, "BTD,DF->BTF", (c.embed_dim, c.mlp_dim), ("embed", "mlp"),
                       dtype=c.dtype)
        gate_BTF = nn.silu(up(name="gate_proj")(x_BTD))
        h_BTF = gate_BTF * up(name="up_proj")(x_BTD)
        h_BTF = constrain(h_BTF, "act_batch", "act_len", "act_mlp")
        return Linear("BTF,FD->BTD", (c.mlp_dim, c.embed_dim), ("mlp", "embed"),
                      scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype, name="down_proj")(h_BTF)


class Block(nn.Module):
    """One block, the body of a scan over layers.

    With a memory (its hooks are those of `BlockMemory`), a = attention_norm(x):

        x            <- pre_block(x, state)
        added, state <- mix(a, state)               by default read(a, state), state
        x            <- x + dropout(attention(a) + added)
        state        <- write(x, state)
        x            <- x + dropout(mlp(mlp_norm(x)))
        state        <- post_block(x, state)

    The state that a block returns is passed in again with the next segment. With `read`, every
    token reads the state from before the segment; with a `mix` of its own, a memory also updates
    the state from token to token.

    Attributes:
      config: of the model.
      has_memory: whether the block has a memory.
      deterministic: False applies dropout.
      running: whether the tokens continue a segment (`lm2_jax/model/running.py`). Then the memory's
        `step` takes the place of `mix`, and it is not written.
    """

    config: ModelConfig
    has_memory: bool
    deterministic: bool = True
    running: bool = False

    def __call__(self, x_BSD, state, *shared):
        """Applies `run`, rematerialised as `model.remat` says."""
        if self.config.remat == "none" or self.running:
            return self.run(x_BSD, state, *shared)
        # If segments are rematerialised too, `scan_segments` saves the named block inputs. Without
        # them the backward pass would recompute each block twice: once for the input of the next
        # block and once for its own gradient.
        x_BSD, state = checkpoint_name((x_BSD, state), BLOCK_INPUT)
        run = nn.remat(Block.run, prevent_cse=False, policy=REMAT[self.config.remat])
        return run(self, x_BSD, state, *shared)

    @nn.compact
    def run(self, x_BSD, state, window_BWKH, mask, valid_BS, rope_2SH):
        """Applies the block to a segment of S tokens, memory tokens included.

        Args:
          x_BSD: residual stream, in the compute dtype.
          state: this block's slice of the memory state; None without a memory. Where a segment
            continues, what the memory's `step` takes.
          window_BWKH: (keys, values) of this block for the W tokens before the segment; where a
            segment continues, the cache [B, K, C, H] that `Attention` takes.
          mask: which of the W + S keys a token attends to, as `Attention` takes it.
          valid_BS: bool, False for padding.
          rope_2SH: cos and sin, float32 [2, W + S, H/2], or [2, B, S, H/2] where a segment
            continues.

        Returns:
          (x_BSD, (state, (keys, values) as `Attention` returns them)).
        """
        c = self.config
        norm = partial(RMSNorm, c.norm_eps, c.dtype)
        dropout = nn.Dropout(c.dropout, deterministic=self.deterministic)
        kind = memories.kind_of(c) if self.has_memory else None
        memory = kind.block(c, name="memory") if kind and kind.block else None
        x_BSD = constrain(x_BSD, "act_batch", "act_len", "act_embed")
        if memory:
            x_BSD = memory.pre_block(x_BSD, state)
        a_BSD = norm(name="attention_norm")(x_BSD)
        out_BSD, window_BSKH = Attention(c, self.running, name="attention")(
            a_BSD, window_BWKH, mask, rope_2SH)
        if memory:
            mix = memory.step if self.running else memory.mix
            added_BSD, state = mix(a_BSD, state, valid_BS)
            out_BSD += added_BSD
        x_BSD += dropout(out_BSD)
        if memory and not self.running:
            state = memory.write(x_BSD, state, valid_BS)
        x_BSD += dropout(MLP(c, name="mlp")(norm(name="mlp_norm")(x_BSD)))
        if memory and not self.running:
            state = memory.post_block(x_BSD, state, valid_BS)
        return x_BSD, (state, window_BSKH)
