"""RMT, ARMT, DeltaNet and attention over all of a sequence: held against NumPy, and each other."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import reference
import reference_rivals

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

V = 19


def make_config(kind, T=5, M=3, P=2, **changes):
    memory = MemoryConfig(kind=kind, num_slots=M, num_layers=P, key_dim=4)
    small = dict(vocab_size=V, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                 mlp_dim=24, segment_length=T, memory=memory, rope_theta=100.0)
    return ModelConfig(**{**small, **changes})


def read(config, variables, tokens_BL, valid_BL=None, window=None):
    model = LanguageModel(config)
    state = init_state(config, len(tokens_BL), window)
    return jax.jit(lambda *x: apply_segments(model, *x))(variables, tokens_BL, state, valid_BL)


def tokens_of(config, rows=2, segments=4):
    length = segments * config.segment_length - 2
    rng = np.random.default_rng(0)
    tokens_BL = rng.integers(0, V, (rows, length), dtype=np.int32)
    valid_BL = np.arange(length)[None, :] < np.array([length, 2 * config.segment_length])[:, None]
    return tokens_BL, valid_BL & (rng.random(valid_BL.shape) < 0.9)


def check(actual, wanted):
    np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [
    make_config("rmt"), make_config("rmt", T=3, M=7, tie_embeddings=False),
    make_config("rmt", attention_window=4), make_config("armt", M=2, attention_window=7),
    make_config("armt"), make_config("armt", T=3, M=7, P=1), make_config("armt", M=1, P=2),
    make_config("delta"),
])
def test_agrees_with_numpy(config):
    variables = reference.params(config, seed=1)
    tokens_BL, valid_BL = tokens_of(config)
    out = read(config, variables, tokens_BL, valid_BL)
    for row in range(len(tokens_BL)):
        starts = range(0, tokens_BL.shape[1], config.segment_length)
        segments = [tuple(x[row, s:s + config.segment_length] for x in (tokens_BL, valid_BL))
                    for s in starts]
        run = getattr(reference_rivals, config.memory.kind)
        logits, memory = run(variables, config, segments)
        wanted_LV = np.concatenate(logits)
        check(out.logits[row][valid_BL[row]], wanted_LV[valid_BL[row]])
        if config.memory.kind == "rmt":
            check(out.state.memory.tokens_1BMD[0, row], memory)
        else:  # both have a matrix and another array in each block
            for block, arrays in enumerate(memory):
                for leaf, wanted in zip(out.state.memory, arrays, strict=True):
                    check(leaf[block, row], wanted)
                assert np.abs(arrays[0]).max() > 0.1


@pytest.mark.parametrize("kind", ["rmt", "armt"])
def test_the_parameters_are_the_published_ones(kind):
    """M vectors; armt also two maps to key_dim, one of values and a gate with its bias."""
    plain, config = make_config(kind, P=0), make_config(kind)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(reference.params(c)))
             for c in (plain, config)]
    of_a_block = 2 * 16 * 4 + 16 * 16 + 16 + 1
    assert sizes[1] - sizes[0] == 3 * 16 + (2 * of_a_block if kind == "armt" else 0)


FULL = make_config("lm2", P=0, attention_window=18)


def test_a_window_of_all_tokens_is_full_attention():
    """Segment by segment with every token kept, or the sequence as one segment: the same."""
    variables = reference.params(FULL)
    tokens_BL, _ = tokens_of(FULL)
    whole = replace(FULL, segment_length=tokens_BL.shape[1], attention_window=0)
    wanted = read(whole, variables, tokens_BL).logits
    np.testing.assert_allclose(read(FULL, variables, tokens_BL).logits, wanted, atol=2e-5)
    sliding = replace(FULL, attention_window=5)
    assert np.abs(read(sliding, variables, tokens_BL).logits - wanted).max() > 0.1


def test_fewer_places_than_the_window_change_nothing():
    """Where the sequence is no longer than they are."""
    variables = reference.params(FULL)
    tokens_BL, valid_BL = tokens_of(FULL)
    config = replace(FULL, attention_window=100)
    wanted = read(config, variables, tokens_BL, valid_BL)
    fewer = read(config, variables, tokens_BL, valid_BL, window=15)
    np.testing.assert_allclose(fewer.logits[valid_BL], wanted.logits[valid_BL], atol=2e-5)
    assert fewer.state.window.valid_BW.shape == (2, 15)


def test_one_segment_needs_no_place():
    variables = reference.params(FULL)
    tokens_BL = tokens_of(FULL)[0][:, :FULL.segment_length]
    wanted, none = (read(FULL, variables, tokens_BL, window=places) for places in (None, 0))
    np.testing.assert_allclose(none.logits, wanted.logits, atol=2e-5)
    assert none.state.window.valid_BW.shape == (2, 0)


def test_memory_tokens_in_some_blocks_are_refused():
    with pytest.raises(ValueError, match="model.memory.num_layers is 1; it must be 0 or "
                                         "model.num_layers = 2"):
        make_config("rmt", P=1)
