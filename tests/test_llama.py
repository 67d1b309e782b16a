"""Off means Llama: without a memory the model is a Llama-3 decoder.

Against the same decoder written out here, bit for bit, and against the transformers library's,
whose weights and logits tests/tools/make_golden_llama.py has written.
"""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import ModelConfig, RopeScaling
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state

GOLDEN = Path(__file__).parent / "parity" / "llama_golden.npz"


@cache
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def model_config(tied, **changes):
    values = json.loads(str(golden()["config"]))
    values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
    return ModelConfig(**{**values, "tie_embeddings": tied, **changes})


def our_variables(config):
    """The golden weights in our tree: kernels [in, out], heads split, layers stacked."""
    weights, D, H = golden(), config.embed_dim, config.head_dim

    def stack(name):
        return np.stack([weights[f"model.layers.{layer}.{name}.weight"]
                         for layer in range(config.num_layers)])

    def kernel(name, *shape):
        return {"kernel": stack(name).swapaxes(1, 2).reshape(-1, *shape)}

    blocks = {
        "attention_norm": {"scale": stack("input_layernorm")},
        "mlp_norm": {"scale": stack("post_attention_layernorm")},
        "attention": {"q_proj": kernel("self_attn.q_proj", D, config.num_heads, H),
                      "k_proj": kernel("self_attn.k_proj", D, config.num_kv_heads, H),
                      "v_proj": kernel("self_attn.v_proj", D, config.num_kv_heads, H),
                      "o_proj": kernel("self_attn.o_proj", config.num_heads, H, D)},
        "mlp": {name: kernel(f"mlp.{name}", *shape)
                for name, shape in (("gate_proj", (D, config.mlp_dim)),
                                    ("up_proj", (D, config.mlp_dim)),
                                    ("down_proj", (config.mlp_dim, D)))},
    }
    params = {"embedding": weights["model.embed_tokens.weight"], "blocks": blocks,
              "final_norm": {"scale": weights["model.norm.weight"]}}
    if not config.tie_embeddings:
        params["lm_head"] = {"kernel": weights["lm_head.weight"].T}
    return {"params": params}


def logits_of(config):
    tokens_BT = golden()["tokens"]
    apply = jax.jit(LanguageModel(config).apply)
    variables = jax.tree.map(jnp.asarray, our_variables(config))
    return np.asarray(apply(variables, tokens_BT, init_state(config, len(tokens_BT))).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(tied):
    config = model_config(tied)
    wanted = golden()[f"logits_{'tied' if tied else 'untied'}"]
    assert 0.5 < wanted.std() < 2
    np.testing.assert_allclose(logits_of(config), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_tree_is_llamas(tied):
    config = model_config(tied)
    ours, wanted = (jax.tree.map(np.shape, tree)
                    for tree in (our_variables(config), reference.params(config)))
    assert ours == wanted
    assert sum(weight.size for name, weight in golden().items() if name.endswith("weight")) == (
        sum(leaf.size for leaf in jax.tree.leaves(our_variables(model_config(False)))))


def test_golden_logits_depend_on_the_rope_scaling():
    config = model_config(True, rope_scaling=None)
    assert np.abs(logits_of(config) - golden()["logits_tied"]).max() > 0.01


def test_golden_file_is_small():
    assert GOLDEN.stat().st_size < 300_000


def plain_llama(params, config, tokens_BT):
    """A Llama-3 decoder without scaled RoPE, written out one block after the other."""
    (B, T), D, H = tokens_BT.shape, config.embed_dim, config.head_dim
    angle = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(0, H, 2) / H)
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[None, :, None] for f in (np.cos, np.sin))

    def norm(x, p):
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + config.norm_eps)
        return x * jnp.broadcast_to(p["scale"], x.shape)

    def linear(x, p, features):
        """Rows of `features` numbers times the kernel as a matrix."""
        return x.reshape(-1, features) @ p["kernel"].reshape(features, -1)

    def rotate(x):
        c, s = (jnp.broadcast_to(a, (*x.shape[:-1], H // 2)) for a in (cos, sin))
        a, b = x[..., :H // 2], x[..., H // 2:]
        return jnp.concatenate([a * c - b * s, b * c + a * s], axis=-1)

    x = params["embedding"][tokens_BT]
    for layer in range(config.num_layers):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        a = norm(x, p["attention_norm"])
        q, k, v = (linear(a, p["attention"][name], D).reshape(B, T, -1, H)
                   for name in ("q_proj", "k_proj", "v_proj"))
        heads = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + linear(heads, p["attention"]["o_proj"], config.num_heads * H).reshape(x.shape)
        a = norm(x, p["mlp_norm"])
        gate, up = (linear(a, p["mlp"][name], D) for name in ("gate_proj", "up_proj"))
        hidden = jax.nn.silu(gate) * up
        x = x + linear(hidden, p["mlp"]["down_proj"], config.mlp_dim).reshape(x.shape)
    x = norm(x, params["final_norm"])
    if config.tie_embeddings:
        return jnp.einsum("BTD,VD->BTV", x, params["embedding"])
    return linear(x, params["lm_head"], D).reshape(B, T, -1)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}])
def test_logits_are_a_plain_decoders_bit_for_bit(changes):
    """Operation by operation; compiled as one, what the compiler fuses rounds differently."""
    config = ModelConfig(**{**dict(vocab_size=19, embed_dim=16, num_layers=2, num_heads=4,
                                   num_kv_heads=2, mlp_dim=24, segment_length=7), **changes})
    variables = reference.params(config)
    tokens_BT = np.random.default_rng(0).integers(0, 19, (3, 7), dtype=np.int32)
    model, state = LanguageModel(config), init_state(config, 3)
    with jax.disable_jit():
        ours = model.apply(variables, tokens_BT, state)
        wanted = plain_llama(variables["params"], config, tokens_BT)
    assert ours.state.memory is None and ours.state.window is None
    assert np.array_equal(ours.logits, wanted)
    ours = jax.jit(model.apply)(variables, tokens_BT, state)
    wanted = jax.jit(lambda p, tokens: plain_llama(p, config, tokens))(
        variables["params"], tokens_BT)
    np.testing.assert_allclose(ours.logits, wanted, rtol=0, atol=1e-6)
