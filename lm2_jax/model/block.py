"""A decoder block: attention and memory side by side, then the mlp."""

import flax.linen as nn
import jax

from lm2_jax.config import ModelConfig
from lm2_jax.model.attention import Attention
from lm2_jax.model.linear import Linear, RMSNorm
from lm2_jax.model.memory import LM2Memory
from lm2_jax.partition import constrain

MEMORIES = {"lm2": LM2Memory}


class MLP(nn.Module):
    """SwiGLU: (silu(x W_gate) * (x W_up)) W_down."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        wide = dict(equation="BTD,DF->BTF", shape=(c.embed_dim, c.mlp_dim), dtype=c.dtype,
                    axes=("embed", "mlp"))
        gate_BTF = nn.silu(Linear(**wide, name="gate_proj")(x_BTD))
        h_BTF = gate_BTF * Linear(**wide, name="up_proj")(x_BTD)
        h_BTF = constrain(h_BTF, "act_batch", "act_len", "act_mlp")
        return Linear("BTF,FD->BTD", (c.mlp_dim, c.embed_dim), ("mlp", "embed"),
                      scale=(2 * c.num_layers) ** -0.5, dtype=c.dtype, name="down_proj")(h_BTF)


class Block(nn.Module):
    """One block; `remembers` says whether it has a memory.

    The carry is the stream x [B, T, D]; the bank and the window's keys and values are the
    block's own and come back changed. All tokens read the bank as it stood when the segment
    began.
    """

    config: ModelConfig
    remembers: bool
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BTD, bank_BMD, window_BWKH, mask_BTS, valid_BT, rope_2SH):
        c = self.config
        norm = dict(eps=c.norm_eps, dtype=c.dtype)
        dropout = nn.Dropout(c.dropout, deterministic=self.deterministic)
        x_BTD = constrain(x_BTD, "act_batch", "act_len", "act_embed")
        a_BTD = RMSNorm(**norm, name="attention_norm")(x_BTD)
        added_BTD, window_BSKH = Attention(c, name="attention")(
            a_BTD, window_BWKH, mask_BTS, rope_2SH)
        if self.remembers:
            memory = MEMORIES[c.memory.kind](
                c.memory, c.embed_dim, c.norm_eps, (2 * c.num_layers) ** -0.5, c.dtype,
                name="memory")
            added_BTD += memory.read(a_BTD, bank_BMD)
        x_BTD += dropout(added_BTD)
        if self.remembers:
            h_BTD = RMSNorm(**norm, name="write_norm")(x_BTD)
            bank_BMD = memory.write(h_BTD, bank_BMD, valid_BT)
        x_BTD += dropout(MLP(c, name="mlp")(RMSNorm(**norm, name="mlp_norm")(x_BTD)))
        return x_BTD, (bank_BMD, window_BSKH)
