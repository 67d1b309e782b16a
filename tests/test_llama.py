"""Without a memory the model is the transformers library's Llama: same weights, same logits.

The golden file is written by tests/parity/make_golden_llama.py.
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
from lm2_jax.model.lm import LanguageModel, init_state

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
