"""Cached decoding against the model that reads everything at once, for every kind of memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, V, make_config, variables

from lm2_jax import partition
from lm2_jax.generate.engine import Engine
from lm2_jax.generate.sampling import Sampling
from lm2_jax.model import running
from lm2_jax.model.embedding import unembed, unembedding
from lm2_jax.model.lm import LanguageModel, init_state, select_rows
from lm2_jax.model.schedule import apply_segments

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = ("memory in all blocks", "more slots than tokens and channels",
         "null write, 2 slots", "no memory", "window and memory", "window beyond a segment",
         "memory tokens and window", "associations and window", "recurrence in one block")


def texts(config, seed=3):
    """Three texts that end in the middle of a segment, with one, and with the first token."""
    T, rng = config.segment_length, np.random.default_rng(seed)
    return [rng.integers(0, V, length, np.int32) for length in (2 * T - 2, T, 2 * T + 1)]


@functools.partial(jax.jit, static_argnums=0)
def at_once(model, params, tokens_BL, valid_BL, reset_BS):
    state = init_state(model.config, len(tokens_BL))
    return apply_segments(model, params, tokens_BL, state, valid_BL, reset_BS)


def uncached(config, params, rows, wipe=False):
    """The logits of texts of any lengths, [B, L, V], and the state after them."""
    L = -(-max(map(len, rows)) // config.segment_length) * config.segment_length
    tokens_BL, valid_BL = np.zeros((len(rows), L), np.int32), np.zeros((len(rows), L), bool)
    for b, row in enumerate(rows):
        tokens_BL[b, :len(row)], valid_BL[b, :len(row)] = row, True
    resets = np.full((len(rows), L // config.segment_length), wipe)
    return np.asarray(at_once(LanguageModel(config), params, tokens_BL, valid_BL, resets).logits)


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def equal_readings(a, b, exact=True):
    assert a.segments == b.segments and a.rows == b.rows
    for one, other in zip(a.tails, b.tails, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0 if exact else 1e-5)


@functools.partial(jax.jit, static_argnums=0)
def extend(model, params, segment, tokens_BT, valid_BT):
    x_BTD, segment = running.extend(model.config, params, segment, tokens_BT, valid_BT)
    return unembed(x_BTD, unembedding(model.config, params)), segment


@functools.partial(jax.jit, static_argnums=(0, 3))
def begin(model, params, state, capacity):
    return running.begin(model.config, params, state, 3, capacity)


@pytest.mark.parametrize("name", NAMES)
def test_cached_logits_are_the_uncached_ones(name):
    """Rows of different lengths read on for more than three segments, a token each at a time."""
    config, params = CASES[name], variables(CASES[name])
    model, T, L = LanguageModel(config), config.segment_length, 6 * config.segment_length
    tokens_BL = np.random.default_rng(1).integers(0, V, (3, L), np.int32)
    wanted = uncached(config, params, tokens_BL)
    lengths = np.array([T - 1, 1, T // 2])
    state = init_state(config, 3)
    valid_BT = np.arange(T - 1)[None] < lengths[:, None]
    logits_BTV, segment = extend(model, params, begin(model, params, state, T),
                                 tokens_BL[:, :T - 1], valid_BT)
    np.testing.assert_allclose(np.where(valid_BT[..., None], logits_BTV, 0),
                               np.where(valid_BT[..., None], wanted[:, :T - 1], 0), atol=1e-5)
    for _ in range(4 * T):
        if (full := lengths % T == 0).any() and lengths.min() > 0:
            rows = [tokens_BL[b, n - T if n >= T else 0:n] for b, n in enumerate(lengths)]
            whole = np.stack([np.resize(row, T) for row in rows])
            after = model.apply(params, whole, state, np.repeat(full[:, None], T, 1)).state
            state = select_rows(full, after, state)
            segment = select_rows(full, begin(model, params, state, T), segment)
        next_B1 = tokens_BL[np.arange(3), lengths][:, None]
        logits_B1V, segment = extend(model, params, segment, next_B1, np.ones((3, 1), bool))
        np.testing.assert_allclose(logits_B1V[:, 0], wanted[np.arange(3), lengths], atol=1e-5)
        lengths += 1


@pytest.mark.parametrize("wipe", [False, True], ids=["carried", "wiped"])
@pytest.mark.parametrize("name", ["window and memory", "memory tokens and window",
                                  "associations", "recurrence in one block"])
def test_text_and_state_are_those_of_reading_all_at_once(name, wipe):
    config, params = CASES[name], variables(CASES[name])
    engine, prompts = Engine(LanguageModel(config), params, pad_id=0), texts(config)
    new = 3 * config.segment_length + 2
    decoding = engine.generate(engine.read(prompts, wipe=wipe, places=64), Sampling(), new,
                               wipe=wipe)
    said = np.stack(list(decoding), axis=1)
    whole = [np.concatenate(pair) for pair in zip(prompts, said, strict=True)]
    logits_BLV = uncached(config, params, whole, wipe)
    for row, prompt, logits_LV in zip(said, prompts, logits_BLV, strict=True):
        chosen = logits_LV[len(prompt) - 1:len(prompt) - 1 + new]
        np.testing.assert_array_equal(row, chosen.argmax(axis=-1))
    # Rows that are closed one by one are computed in smaller products.
    equal_readings(decoding.reading, engine.read(whole, wipe=wipe, places=64), exact=False)


def test_a_thousand_tokens_are_those_of_the_uncached_model():
    config = make_config(T=16, M=4, P=2, window=16)
    params, new = variables(config), 1000
    engine = Engine(LanguageModel(config), params, pad_id=0)
    prompt = np.arange(5, dtype=np.int32)
    decoding = engine.generate(engine.read([prompt]), Sampling(), new)
    said = np.concatenate(list(decoding))
    whole = np.concatenate([prompt, said])
    logits_LV = uncached(config, params, [whole])[0, len(prompt) - 1:][:new]
    np.testing.assert_array_equal(said, logits_LV.argmax(axis=-1))
    assert len(set(said.tolist())) > 3
    reading = engine.read([whole])
    assert same(decoding.reading.state, reading.state) and reading.segments == (1005 // 16,)


@pytest.mark.parametrize("name", ["window and memory", "memory tokens", "no memory"])
def test_reading_in_pieces_is_reading_at_once(name):
    config, params = CASES[name], variables(CASES[name])
    engine, rows = Engine(LanguageModel(config), params, pad_id=0), texts(config)
    whole, read = engine.read(rows, places=64), []
    first = engine.read([row[:cut] for row, cut in zip(rows, (1, 6, 7), strict=True)], places=64)
    rest = [row[cut:] for row, cut in zip(rows, (1, 6, 7), strict=True)]
    for _ in range(2):  # the first reading stays as it is
        equal_readings(engine.read(rest, first, progress=read.append), whole)
    assert sum(read) == 2 * sum(map(len, rest))
    equal_readings(engine.read([row[:0] for row in rows], whole), whole)
    assert whole.tokens_read(config.segment_length) == list(map(len, rows))
    with pytest.raises(ValueError, match="empty"):
        engine.read([rows[0], rows[0][:0]])


def test_a_window_grows_as_it_is_filled():
    config = CASES["window beyond a segment"]
    engine = Engine(LanguageModel(config), variables(config), pad_id=0)
    row = texts(config)[2]
    small, large = engine.read([row[:3]]), engine.read([row])
    grown = engine.read([row[3:]], small)
    assert small.state.window.valid_BW.shape < grown.state.window.valid_BW.shape
    equal_readings(grown, large)
    said = [np.concatenate(list(engine.generate(reading, Sampling(), 9)))
            for reading in (grown, engine.read([row], places=999))]
    np.testing.assert_array_equal(*said)


def test_an_iteration_can_be_left_and_taken_up_again():
    """A conversation: each turn begins from the reading of the last, however it was left."""
    config = CASES["window and memory"]
    engine = Engine(LanguageModel(config), variables(config), pad_id=0)
    prompts, T = texts(config), config.segment_length
    start = engine.read(prompts)
    wanted = np.stack(list(engine.generate(start, Sampling(), 2 * T)))
    for stop in range(1, T + 2):
        decoding = engine.generate(start, Sampling(), 2 * T)
        said = [next(decoding) for _ in range(stop)]
        said += list(engine.generate(decoding.reading, Sampling(), 2 * T - stop))
        np.testing.assert_array_equal(np.stack(said), wanted)
    chosen = start.take([2, 0, 2, 1], batch_size=5)
    assert chosen.rows == 4 and len(chosen.tails) == 5
    said = np.stack(list(engine.generate(chosen, Sampling(), 2 * T)))
    np.testing.assert_array_equal(said, wanted[:, [2, 0, 2, 1]])


@pytest.mark.parametrize("name", ["window and memory", "memory tokens and window"])
def test_a_mesh_gives_the_same_text(name):
    config, params = CASES[name], variables(CASES[name])
    prompts = [*texts(config), texts(config)[0]]
    engine = Engine(LanguageModel(config), params, pad_id=0)
    wanted = np.stack(list(engine.generate(engine.read(prompts), Sampling(), 9)))
    mesh = partition.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    with jax.set_mesh(mesh):
        decoding = engine.generate(engine.read(prompts), Sampling(), 9)
        np.testing.assert_array_equal(np.stack(list(decoding)), wanted)
        cache = decoding._position.running.key_QBKCH
        assert cache.sharding.shard_shape(cache.shape)[1:3] == (2, 1)


def test_a_cache_that_is_given_away_is_not_copied():
    config = make_config(T=64, M=4, P=1)
    model, params = LanguageModel(config), variables(config)
    segment = jax.eval_shape(lambda: running.begin(config, params, init_state(config, 3), 3, 64))
    step = jax.jit(lambda s: running.extend(config, params, s, jnp.zeros((3, 1), jnp.int32),
                                            jnp.ones((3, 1), bool)), donate_argnums=0)
    sizes = step.lower(segment).compile().memory_analysis()
    cache = segment.key_QBKCH.size * 4
    assert sizes.alias_size_in_bytes >= 2 * cache > 2 * sizes.temp_size_in_bytes
    assert model.config == config
