"""Backpropagation through time: how far the gradient goes, and that recomputing changes nothing."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments, scan_segments, split_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def make_config(T, P, window, kind="lm2", write="routed"):
    return ModelConfig(vocab_size=19, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                       mlp_dim=24, segment_length=T, attention_window=window,
                       memory=MemoryConfig(kind=kind, num_slots=4, num_heads=2, num_layers=P,
                                           key_dim=4, write=write))


def check_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b)


@cache
def segment_gradients(config, bptt_segments, S=4):
    """[S, S]: the largest gradient of the loss in segment s by an embedding of segment r.

    The segments have tokens of their own, and the embeddings serve as inputs only.
    """
    tokens_BL = np.tile(np.arange(S * config.segment_length, dtype=np.int32), (2, 1))
    config = replace(config, vocab_size=tokens_BL.shape[1], tie_embeddings=False)
    start = reference.params(config)

    def losses(embedding):
        own = {"params": {**start["params"], "embedding": embedding}}
        out = apply_segments(LanguageModel(config), own, tokens_BL, init_state(config, 2),
                             bptt_segments=bptt_segments)
        return jnp.square(out.logits).reshape(2, S, -1).sum(axis=(0, 2)), out.logits

    by_SVD, logits = jax.jit(jax.jacrev(losses, has_aux=True))(start["params"]["embedding"])
    return np.abs(by_SVD).reshape(S, S, -1).max(axis=-1), np.asarray(logits)


@pytest.mark.parametrize("kind,window,g", [
    ("lm2", 0, 0), ("lm2", 0, 1), ("lm2", 0, 2), ("lm2", 3, 2), ("rmt", 0, 3), ("armt", 0, 3),
    ("delta", 0, 3), ("paper", 0, 2),
    *(pytest.param(write, 0, 2, marks=pytest.mark.slow) for write in ("null", "open"))])
def test_gradient_stays_in_its_group(kind, window, g):
    """Exactly zero for the segments before the group, not zero within it."""
    changes = {"write": kind} if kind in ("paper", "null", "open") else {"kind": kind}
    config = make_config(T=2, P=2, window=window, **changes)
    by_segment, logits = segment_gradients(config, g)
    s, r = np.indices(by_segment.shape)
    within = (r <= s) & ((r // g == s // g) if g else True)
    assert (by_segment[~within] == 0).all()
    assert (by_segment[within] > 1e-5).all()
    if kind == "lm2" and not window:
        check_close(logits, segment_gradients(config, 0)[1])


def test_recomputing_changes_neither_values_nor_gradients():
    """Each policy inside a block, and segments recomputed or kept."""
    base = make_config(T=4, P=1, window=2)
    tokens_BL = np.random.default_rng(0).integers(0, 19, (3, 14), dtype=np.int32)
    valid_BL = np.arange(14)[None, :] < np.array([14, 10, 6])[:, None]
    xs = (split_segments(tokens_BL, 4), split_segments(valid_BL, 4, fill=False))

    def run(remat_segments, policy):
        model = LanguageModel(replace(base, remat=policy))

        def loss(own):
            def step(state, x):
                out = model.apply(own, x[0], state, x[1])
                return out.state, jnp.square(out.logits)

            state, ys = scan_segments(step, init_state(base, 3), xs, remat=remat_segments)
            return ys.mean() + jnp.square(state.memory).mean()

        return jax.jit(jax.value_and_grad(loss))(reference.params(base))

    wanted = run(False, "none")
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 1e-5
    for remat_segments, policy in ((True, "dots"), (True, "full")):
        check_close(run(remat_segments, policy), wanted)
