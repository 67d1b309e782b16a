"""The model against the float64 reference: one block's memory, and the whole model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import MemoryConfig, ModelConfig, RopeScaling
from lm2_jax.model import rope
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.memory.lm2 import LM2Memory, identity_bank
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TOLERANCE = 1e-5
SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position=16)


UNCOUPLED = dict(coupled_gates=False, gates_see_slot=False)
WRITES = {
    "routed": {}, "paper": dict(write="paper"), "open": dict(write="open"),
    "null": dict(write="null"), "top 2": dict(write_top_k=2),
    "uncoupled": UNCOUPLED, "uncoupled gates that see the slot": dict(coupled_gates=False),
    "coupled gates that do not see the slot": dict(gates_see_slot=False),
    "slot keys": dict(slot_keys=True),
    "untied, of the paper": dict(write="paper", tied_addressing=False),
    "untied": dict(tied_addressing=False, slot_keys=True),
}


def make_config(slots=4, layers=1, memory_heads=2, top_k=0, options=None, **changes):
    memory = MemoryConfig(num_slots=slots, num_heads=memory_heads, num_layers=layers, top_k=top_k,
                          **options or {})
    small = dict(vocab_size=23, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                 mlp_dim=24, segment_length=6, memory=memory)
    return ModelConfig(**{**small, **changes})


MODELS = {
    "fewer slots than tokens": make_config(slots=4, layers=2),
    "more slots than tokens": make_config(slots=9, segment_length=5),
    "more slots than channels": make_config(slots=19, num_layers=3, memory_heads=4),
    "no memory": make_config(layers=0, num_kv_heads=4),
    "the paper's write": make_config(slots=5, layers=2, options=WRITES["paper"]),
    "untied write": make_config(slots=5, layers=2, options=WRITES["untied"]),
    "top 2 of 5": make_config(slots=5, layers=2, top_k=2),
    "scaled rope, untied": make_config(rope_scaling=SCALING, tie_embeddings=False),
    "window, head_dim of its own": make_config(attention_window=4, rope_scaling=SCALING,
                                               head_dim=10, num_kv_heads=1, rope_theta=100.0),
    "window beyond a segment, one slot": make_config(slots=1, memory_heads=1, attention_window=13,
                                                     layers=2, segment_length=4),
    "window without memory": make_config(attention_window=6, layers=0),
}


def check(actual, wanted):
    np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def memory_of():
    def make(D, num_slots, num_heads, top_k=0, options=None):
        config = make_config(slots=num_slots, memory_heads=num_heads, top_k=top_k, embed_dim=D,
                             options=options)
        variables = reference.params(config, seed=num_slots)
        own = jax.tree.map(lambda a: a[0], variables["params"]["memory_blocks"]["memory"])
        return LM2Memory(config), {"params": own}

    return make


def write(memory, x_BTD, bank_BMD, valid_BT):
    return memory.write(x_BTD, (bank_BMD, memory.prepare(bank_BMD)[0]), valid_BT)


SHAPES = [(16, 7, 4, 2), (16, 3, 8, 4), (16, 5, 21, 1), (32, 1, 3, 8)]  # D, T, M, heads


@pytest.mark.parametrize("D,T,M,heads", SHAPES)
@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_read(memory_of, D, T, M, heads, top_k):
    rng = np.random.default_rng(T)
    memory, variables = memory_of(D, M, heads, top_k)
    a_BTD, bank_BMD = (rng.normal(size=(2, n, D)).astype(np.float32) for n in (T, M))
    read = nn.apply(lambda memory, a_BTD, bank: memory.read(a_BTD, memory.prepare(bank)), memory)
    actual = jax.jit(read)(variables, a_BTD, bank_BMD)
    own = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for row in range(2):
        wanted = reference.memory_read(own, a_BTD[row].astype(np.float64),
                                       bank_BMD[row].astype(np.float64), 1e-5, top_k)
        check(actual[row], wanted)
        assert np.abs(wanted).max() > 0.05


@pytest.mark.parametrize("kind,D,T,M,heads", [
    pytest.param(kind, *shape, marks=() if kind == "routed" or shape in SHAPES[::2]
                 else pytest.mark.slow) for kind in WRITES for shape in SHAPES])
def test_write(memory_of, D, T, M, heads, kind):
    rng = np.random.default_rng(T)
    memory, variables = memory_of(D, M, heads, options=WRITES[kind])
    x_BTD, bank_BMD = (rng.normal(size=(3, n, D)).astype(np.float32) for n in (T, M))
    valid_BT = np.stack([np.ones(T, bool), np.arange(T) % 2 == 0, np.zeros(T, bool)])
    actual = jax.jit(nn.apply(write, memory))(variables, x_BTD, bank_BMD, valid_BT)
    own = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for row in range(3):
        h_TD = reference.norm(x_BTD[row].astype(np.float64), own["write_norm"], 1e-5)
        check(actual[row], reference.memory_write(
            own, memory.config.memory, h_TD, bank_BMD[row].astype(np.float64), valid_BT[row],
            1e-5))
    assert np.abs(np.asarray(actual)[:2] - bank_BMD[:2]).max() > 0.1


@pytest.mark.parametrize("bias", [100.0, -100.0])
def test_a_routed_write_closes_and_opens_exactly(memory_of, bias):
    """Closed it leaves the bank bit for bit as it is, open it is the paper's write."""
    rng = np.random.default_rng(0)
    routed, variables = memory_of(16, 5, 2, options=UNCOUPLED)
    paper, _ = memory_of(16, 5, 2, options=WRITES["paper"])
    params = variables["params"] | {"route_bias": jnp.full(2, bias)}
    x_BTD, bank_BMD = (rng.normal(size=(3, n, 16)).astype(np.float32) for n in (7, 5))
    valid_BT = np.ones((3, 7), bool)
    found = routed.apply({"params": params}, x_BTD, bank_BMD, valid_BT, method=write)
    wanted = bank_BMD if bias > 0 else paper.apply(
        {"params": {name: leaf for name, leaf in params.items() if name != "route_bias"}},
        x_BTD, bank_BMD, valid_BT, method=write)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("num_slots", [1, 5, 8, 19])
def test_bank_at_the_start_is_the_identity_repeated(num_slots):
    bank_MD = np.asarray(identity_bank(num_slots, 8))
    assert bank_MD.dtype == np.float32
    assert np.array_equal(bank_MD, np.tile(np.eye(8), (3, 1))[:num_slots])


def inputs(config, rows, length, seed=0):
    """Tokens, valid (rows that end at different times, and a hole) and resets."""
    rng = np.random.default_rng(seed)
    tokens_BL = rng.integers(0, config.vocab_size, (rows, length), dtype=np.int32)
    valid_BL = np.arange(length)[None, :] < length - 4 * np.arange(rows)[:, None]
    valid_BL[1, 3] = False
    reset_BS = np.zeros((rows, -(-length // config.segment_length)), bool)
    reset_BS[2, 2] = True
    return tokens_BL, valid_BL, reset_BS


def jax_model(config, variables):
    model = LanguageModel(config)
    return jax.jit(lambda tokens, valid, reset: apply_segments(
        model, variables, tokens, init_state(config, len(tokens)), valid, reset))


@pytest.mark.parametrize("name", MODELS)
def test_language_model_over_segments(name):
    config = MODELS[name]
    variables = reference.params(config)
    tokens_BL, valid_BL, reset_BS = inputs(config, 3, 4 * config.segment_length - 3)
    out = jax_model(config, variables)(tokens_BL, valid_BL, reset_BS)
    assert out.logits.dtype == jnp.float32
    assert out.logits.shape == (*tokens_BL.shape, config.vocab_size)
    for row in range(3):
        logits_LV, after = reference.sequence(variables, config, tokens_BL[row], valid_BL[row],
                                              reset_BS[row])
        valid_L = valid_BL[row]
        assert 0.3 < logits_LV.std() < 10
        check(out.logits[row][valid_L], logits_LV[valid_L])
        for layer, bank_MD in enumerate(after.banks):
            check(out.state.memory[layer, row], bank_MD)
        for layer, window in enumerate(after.windows if config.attention_window else []):
            count = len(window)
            wanted = [False] * (config.attention_window - count) + [True] * count
            assert np.array_equal(out.state.window.valid_BW[row], wanted)
            for place, (key_KH, value_KH) in enumerate(window, config.attention_window - count):
                check(out.state.window.key_QBWKH[layer, row, place], key_KH)
                check(out.state.window.value_QBWKH[layer, row, place], value_KH)


def test_computing_in_bfloat16_stays_close():
    config = make_config(attention_window=4, dtype="bfloat16")
    variables = reference.params(config)
    tokens_BL, valid_BL, reset_BS = inputs(config, 3, 3 * config.segment_length)
    out = jax_model(config, variables)(tokens_BL, valid_BL, reset_BS)
    assert out.logits.dtype == out.state.memory.dtype == jnp.float32
    assert out.state.window.key_QBWKH.dtype == jnp.bfloat16
    for row in range(3):
        logits_LV, after = reference.sequence(variables, config, tokens_BL[row], valid_BL[row],
                                              reset_BS[row])
        error = np.abs(np.asarray(out.logits[row]) - logits_LV)[valid_BL[row]]
        assert 1e-4 < error.max() < 0.1
        np.testing.assert_allclose(out.state.memory[0, row], after.banks[0], atol=0.03)


@pytest.mark.parametrize("P,write", [
    (0, "routed"), (1, "routed"), (16, "routed"), *(pytest.param(
        P, write, marks=pytest.mark.slow) for P, write in (
            (6, "routed"), (12, "routed"), (1, "paper"), (16, "paper"), (16, "open")))])
def test_memory_in_some_of_16_blocks(P, write):
    config = make_config(layers=P, num_layers=16, options=WRITES[write])
    D, F, K, H, V, B = 16, 24, 2, 4, 23, 2
    block = 2 * D * D + 2 * D * K * H + 3 * D * F + 2 * D
    # Kernels, biases of the output and forget gates and the route, norms of slots and write.
    memory = 8 * D * D + 2 * D + 2 + 2 * D
    memory += {"routed": 0, "open": -2, "paper": D - 2}[write]  # another bias, no route
    variables = reference.params(config)
    sizes = [leaf.size for leaf in jax.tree.leaves(variables)]
    assert sum(sizes) == 16 * block + P * memory + V * D + D
    before, tokens_BT = init_state(config, B), np.arange(2 * 5, dtype=np.int32).reshape(B, 5)
    out = jax.jit(LanguageModel(config).apply)(variables, tokens_BT, before)
    assert np.isfinite(out.logits).all() and out.logits.shape == (B, 5, V)
    if P:
        assert out.state.memory.shape == (P, B, 4, D)
        assert (np.abs(out.state.memory - before.memory).max(axis=(1, 2, 3)) > 1e-3).all()
    else:
        assert out.state.memory is None


@pytest.mark.slow
def test_keys_begin_as_a_multiple_of_the_queries():
    """In every block, each with queries of its own, of standard deviation 1 / sqrt(D)."""
    memory = MemoryConfig(num_slots=4, num_heads=4, num_layers=2)
    config = ModelConfig(vocab_size=8, embed_dim=64, num_layers=2, memory=memory)
    variables = nn.unbox(jax.jit(LanguageModel(config).init)(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), init_state(config, 1)))
    kernels = variables["params"]["memory_blocks"]["memory"]
    q_PDNH = np.asarray(kernels["q_proj"]["kernel"])
    np.testing.assert_allclose(kernels["k_proj"]["kernel"], 2.0 * q_PDNH, rtol=1e-6)
    assert np.abs(q_PDNH[0] - q_PDNH[1]).min() > 0
    for name in ("q_proj", "write_proj"):
        assert np.std(kernels[name]["kernel"]) * 8 == pytest.approx(1.0, rel=0.03)


@pytest.mark.slow
def test_size_of_the_published_model():
    """Llama-3.2 1B with a bank of 2048 slots in each block: 1.24 and 0.54 billion parameters."""
    config = ModelConfig(
        vocab_size=128_256, embed_dim=2048, num_layers=16, num_heads=32, num_kv_heads=8,
        mlp_dim=8192, segment_length=2048, rope_scaling=RopeScaling(),
        memory=MemoryConfig(num_slots=2048, num_heads=8, num_layers=16))
    tokens_BT = jax.ShapeDtypeStruct((3, 2048), jnp.int32)
    state = jax.eval_shape(lambda: init_state(config, 3))
    model = LanguageModel(config)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens_BT, state)
    sizes = {"memory": 0, "llama": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys = {getattr(key, "key", None) for key in path}
        sizes["memory" if "memory" in keys else "llama"] += leaf.size
    assert sizes["llama"] == pytest.approx(1.24e9, rel=0.02)
    assert sizes["memory"] == pytest.approx(0.54e9, rel=0.02)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size == 16 * 3 * 2048 * 2048 * 4
    out = jax.eval_shape(model.apply, variables, tokens_BT, state)
    assert out.logits.shape == (3, 2048, 128_256)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), out.state) == (
        jax.tree.map(lambda a: (a.shape, a.dtype), state))


def test_frequencies_of_llama_3_2():
    """Factor 32, low 1, high 4, original 8192, theta 500000, head_dim 64 as Llama-3.2 1B.

    By hand: pair i has freq 500000^(-i/32) and turns 8192 freq / 2 pi times in the original
    context. Pair 14 turns 4.187 times (kept), 15 turns 2.779 times, 16 1.844 and 17 1.224 times
    (kept to the part (turns - 1) / 3, the rest divided by 32), 18 turns 0.812 times (divided).
    """
    freq = rope.frequencies(64, 500_000.0, RopeScaling(32.0, 1.0, 4.0, 8192))
    assert freq.shape == (32,) and freq.dtype == np.float64
    by_hand = {0: 1.0, 1: 0.663601238, 14: 0.00321144599, 15: 0.00129054793, 16: 4.29556797e-4,
               17: 9.7082878e-5, 18: 1.94616382e-5, 31: 9.41830673e-8}
    for pair, wanted in by_hand.items():
        assert freq[pair] == pytest.approx(wanted, rel=1e-8), pair
    wanted = reference.frequencies(64, 500_000.0, RopeScaling(32.0, 1.0, 4.0, 8192))
    np.testing.assert_allclose(freq, wanted, rtol=1e-12)


def test_frequencies_without_scaling():
    assert rope.frequencies(8, 10_000.0, None) == pytest.approx([1.0, 0.1, 0.01, 0.001])
