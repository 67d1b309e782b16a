"""Cached decoding against the model that reads everything at once, for every kind of memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, V, make_config, variables

from lm2_jax import partition
from lm2_jax.generation import decoding
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.sampling import Sampling
from lm2_jax.model import running
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KINDS = ("null write, 2 slots", "no memory", "window beyond a segment",
         "memory tokens and window", "associations and window", "recurrence in one block")


class Overheard(Sampling):
    """Greedy; the logits of every step are kept in `logits`."""

    logits = []


def overhear(monkeypatch):
    """Returns the sampling for `Engine.generate`, and its list of logits, [B, V] each."""
    def sample(logits_BV, *_):
        jax.debug.callback(lambda x: Overheard.logits.append(np.array(x)), logits_BV, ordered=True)
        return jnp.argmax(logits_BV, axis=-1)

    monkeypatch.setattr(decoding, "sample", sample)
    Overheard.logits = []
    return Overheard(), Overheard.logits


def texts(config, seed=3):
    """Three texts that end in the middle of a segment, with one, and with the first token."""
    T, rng = config.segment_length, np.random.default_rng(seed)
    return [rng.integers(0, V, length, np.int32) for length in (2 * T - 2, T, 2 * T + 1)]


def uncached(config, params, rows, wipe=False):
    """The logits of texts of any lengths, [B, L, V]."""
    L = -(-max(map(len, rows)) // config.segment_length) * config.segment_length
    tokens_BL, valid_BL = np.zeros((len(rows), L), np.int32), np.zeros((len(rows), L), bool)
    for b, row in enumerate(rows):
        tokens_BL[b, :len(row)], valid_BL[b, :len(row)] = row, True
    reset_BS = np.full((len(rows), L // config.segment_length), wipe)
    state = init_state(config, len(rows))
    return np.asarray(apply_segments(LanguageModel(config), params, jnp.asarray(tokens_BL), state,
                                     jnp.asarray(valid_BL), jnp.asarray(reset_BS)).logits)


def equal_readings(a, b, exact=True):
    assert a.segments == b.segments and a.rows == b.rows
    for one, other in zip(a.tails, b.tails, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0 if exact else 1e-5)


@pytest.mark.parametrize("name,wipe", [*((name, False) for name in KINDS),
                                       ("window beyond a segment", True)])
def test_logits_text_and_state_are_those_of_reading_all_at_once(name, wipe, monkeypatch):
    """Rows of different lengths go on for more than three segments."""
    config, params = CASES[name], variables(CASES[name])
    engine, prompts = Engine(LanguageModel(config), params, pad_id=0), texts(config)
    new, (greedy, logits) = 3 * config.segment_length + 2, overhear(monkeypatch)
    generated = engine.generate(engine.read(prompts, wipe=wipe, places=64), greedy, new, wipe=wipe)
    said = np.stack(list(generated), axis=1)
    jax.effects_barrier()
    whole = [np.concatenate(pair) for pair in zip(prompts, said, strict=True)]
    for b, logits_LV in enumerate(uncached(config, params, whole, wipe)):
        wanted = logits_LV[len(prompts[b]) - 1:][:new]
        np.testing.assert_allclose([step_BV[b] for step_BV in logits], wanted, atol=1e-5)
        np.testing.assert_array_equal(said[b], wanted.argmax(axis=-1))
    if not wipe:  # which leaves no state that matters
        # Rows that are closed one by one are computed in smaller products.
        equal_readings(generated.reading, engine.read(whole, places=64), exact=False)


def test_a_thousand_tokens_are_those_of_the_uncached_model():
    config = make_config(T=16, M=4, P=1, window=16, tie_embeddings=False)
    params, new = variables(config), 1000
    engine = Engine(LanguageModel(config), params, pad_id=0)
    prompt = np.arange(5, dtype=np.int32)
    generated = engine.generate(engine.read([prompt]), Sampling(), new)
    said = np.concatenate(list(generated))
    whole = np.concatenate([prompt, said])
    logits_LV = uncached(config, params, [whole])[0, len(prompt) - 1:][:new]
    np.testing.assert_array_equal(said, logits_LV.argmax(axis=-1))
    assert len(set(said.tolist())) > 10
    equal_readings(generated.reading, engine.read([whole], places=16))


@pytest.mark.parametrize("name", ["window beyond a segment", "memory tokens and window"])
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
    config = CASES["window beyond a segment"]
    engine = Engine(LanguageModel(config), variables(config), pad_id=0)
    prompts, T = texts(config), config.segment_length
    start = engine.read(prompts)
    wanted = np.stack(list(engine.generate(start, Sampling(), 2 * T)))
    for stop in (1, T, T + 1):
        generated = engine.generate(start, Sampling(), 2 * T)
        said = [next(generated) for _ in range(stop)]
        said += list(engine.generate(generated.reading, Sampling(), 2 * T - stop))
        np.testing.assert_array_equal(np.stack(said), wanted)
    chosen = start.take([2, 0, 2, 1], batch_size=5)
    assert chosen.rows == 4 and len(chosen.tails) == 5
    said = np.stack(list(engine.generate(chosen, Sampling(), 2 * T)))
    np.testing.assert_array_equal(said, wanted[:, [2, 0, 2, 1]])


def test_a_mesh_gives_the_same_text():
    name = "memory tokens and window"
    config, params = CASES[name], variables(CASES[name])
    prompts = [*texts(config), texts(config)[0]]
    engine = Engine(LanguageModel(config), params, pad_id=0)
    wanted = np.stack(list(engine.generate(engine.read(prompts), Sampling(), 9)))
    mesh = partition.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    with jax.set_mesh(mesh):
        generated = engine.generate(engine.read(prompts), Sampling(), 9)
        np.testing.assert_array_equal(np.stack(list(generated)), wanted)
        cache = generated._position.running.key_QBKCH
        assert cache.sharding.shard_shape(cache.shape)[1:3] == (2, 1)


def test_a_cache_that_is_given_away_is_not_copied():
    config = make_config(T=1024, M=4, P=1, num_layers=8)
    params = variables(config)
    segment = jax.eval_shape(lambda: running.begin(config, params, init_state(config, 3), 3, 1024))
    step = jax.jit(lambda s: running.extend(config, params, s, jnp.zeros((3, 1), jnp.int32),
                                            jnp.ones((3, 1), bool)), donate_argnums=0)
    sizes = step.lower(segment).compile().memory_analysis()
    cache = 2 * 4 * segment.key_QBKCH.size
    assert cache <= sizes.alias_size_in_bytes and sizes.temp_size_in_bytes < cache / 2
