"""The rules that hold for every memory: causal, carried, reset per row, padding writes nothing.
(The others: test_model_refusals.py, test_llama.py, test_model_gradient.py and, for placement,
test_model_reference.py.)"""

from functools import cache

import jax
import numpy as np
import pytest
from model_cases import CASES, B, V, variables

from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments, split_segments
from lm2_jax.model.state import init_state

each_case = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name == "associations in one block" else name
    for name in CASES])
some_cases = pytest.mark.parametrize("name", [
    "memory in all blocks", "window beyond a segment", "associations",
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in ("window alone", "memory tokens", "recurrence in one block"))])


@cache
def jit_apply(config):
    return jax.jit(LanguageModel(config).apply)


@cache
def jit_segments(config):
    model = LanguageModel(config)
    return jax.jit(lambda *args: apply_segments(model, *args))


def read(config, tokens_BL, valid_BL=None, reset_BS=None, state=None):
    """A whole sequence in one call, always with the same compiled function for its shape."""
    rows, length = tokens_BL.shape
    S = -(-length // config.segment_length)
    valid_BL = np.ones((rows, length), bool) if valid_BL is None else valid_BL
    reset_BS = np.zeros((rows, S), bool) if reset_BS is None else reset_BS
    state = init_state(config, rows) if state is None else state
    return jit_segments(config)(variables(config), tokens_BL, state, valid_BL, reset_BS)


def read_one(config, tokens_BT, state, valid_BT=None, reset_B=None):
    valid_BT = np.ones(tokens_BT.shape, bool) if valid_BT is None else valid_BT
    reset_B = np.zeros(len(tokens_BT), bool) if reset_B is None else reset_B
    return jit_apply(config)(variables(config), tokens_BT, state, valid_BT, reset_B)


def sample(config, seed=0):
    """Tokens [B, L] of four segments, the last not full, and valid: row 1 ends earlier."""
    length = 4 * config.segment_length - 2
    tokens_BL = np.random.default_rng(seed).integers(0, V, (B, length), dtype=np.int32)
    return tokens_BL, until(length, length, 2 * config.segment_length + 2, length)


def until(length, *ends):
    """valid [B, L] of rows that end so."""
    return np.arange(length)[None, :] < np.array(ends)[:, None]


def dirty_state(config):
    """A state that one segment has gone into."""
    tokens_BL, _ = sample(config, seed=5)
    return read_one(config, tokens_BL[:, :config.segment_length], init_state(config, B)).state


def row(state, index):
    rows_first = state.replace(memory=jax.tree.map(lambda a: a.swapaxes(0, 1), state.memory))
    if state.window:
        kv = (a.swapaxes(0, 1) for a in (state.window.key_QBWKH, state.window.value_QBWKH))
        rows_first = rows_first.replace(window=(*kv, state.window.valid_BW))
    return jax.tree.map(lambda a: np.asarray(a[index]), rows_first)


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def check_close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(
        np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=1e-6, atol=atol), a, b)


@each_case
def test_causal(name):
    """A later token changes no earlier logits by a bit; it does change those after it."""
    config = CASES[name]
    T, W, remembers = config.segment_length, config.attention_window, config.memory.num_layers
    tokens_BL, valid_BL = sample(config)
    before = np.asarray(read(config, tokens_BL, valid_BL).logits)
    for p in range(tokens_BL.shape[1]):
        changed_BL = tokens_BL.copy()
        changed_BL[:, p] = (changed_BL[:, p] + 1) % V
        after = np.asarray(read(config, changed_BL, valid_BL).logits)
        differs_BL = (after != before).any(axis=-1) & valid_BL
        assert not differs_BL[:, :p].any()
        if not valid_BL[1, p]:
            assert not differs_BL[1].any()
        end = (p // T + 1) * T
        assert differs_BL[[0, 2], p:end].all()
        for start in range(end, tokens_BL.shape[1], T):
            reached = differs_BL[[0, 2], start:start + T].any(axis=1)
            if remembers or (start == end and p >= end - W):
                assert reached.all()
            elif not W:
                assert not reached.any()


@each_case
def test_carried(name):
    """In one call or segment by segment: the same logits and the same state."""
    config = CASES[name]
    T = config.segment_length
    tokens_BL, valid_BL = sample(config)
    whole = read(config, tokens_BL, valid_BL)
    state, logits = init_state(config, B), []
    for tokens_BT, valid_BT in zip(split_segments(tokens_BL, T),
                                   split_segments(valid_BL, T, fill=False), strict=True):
        out = read_one(config, tokens_BT, state, valid_BT)
        state = out.state
        logits.append(out.logits)
    logits_BLV = np.concatenate(logits, axis=1)[:, :tokens_BL.shape[1]]
    check_close((logits_BLV[valid_BL], state), (whole.logits[valid_BL], whole.state))


@some_cases
def test_carried_over_two_calls(name):
    config = CASES[name]
    border = 2 * config.segment_length
    tokens_BL, valid_BL = sample(config)
    whole = read(config, tokens_BL, valid_BL)
    first = read(config, tokens_BL[:, :border], valid_BL[:, :border])
    second = read(config, tokens_BL[:, border:], valid_BL[:, border:], state=first.state)
    logits_BLV = np.concatenate([first.logits, second.logits], axis=1)
    check_close((logits_BLV[valid_BL], second.state), (whole.logits[valid_BL], whole.state))


@each_case
def test_carried_bit_for_bit(name):
    """Two calls of the same compiled function, the first with padding where the second goes on."""
    config = CASES[name]
    border, (tokens_BL, _) = 2 * config.segment_length, sample(config)
    length = tokens_BL.shape[1]
    rest = length - border
    whole = read(config, tokens_BL)
    first = read(config, tokens_BL, until(length, *[border] * B))
    second = read(config, np.roll(tokens_BL, -border, axis=1), until(length, *[rest] * B),
                  state=first.state)
    assert np.array_equal(whole.logits[:, :border], first.logits[:, :border])
    assert np.array_equal(whole.logits[:, border:], second.logits[:, :rest])
    assert same(whole.state, second.state)


@each_case
def test_reset_puts_back_the_rows_it_names(name):
    config = CASES[name]
    tokens_BL, valid_BL = sample(config)
    part = np.s_[:, :config.segment_length]
    used, unused = dirty_state(config), init_state(config, B)
    reset_B = np.array([True, False, True])
    out, fresh, kept = (read_one(config, tokens_BL[part], state, valid_BL[part], reset)
                        for state, reset in ((used, reset_B), (unused, None), (used, None)))
    for index in range(B):
        wanted = fresh if reset_B[index] else kept
        assert np.array_equal(out.logits[index], wanted.logits[index])
        assert same(row(out.state, index), row(wanted.state, index))
    carries = config.memory.num_layers or config.attention_window
    assert np.array_equal(fresh.logits, kept.logits) == (not carries)


@each_case
def test_packed_sequences_equal_them_alone(name):
    config = CASES[name]
    T = config.segment_length
    tokens_BL, _ = sample(config)
    length = tokens_BL.shape[1]
    spans = ((0, T + 2), (2 * T, 3 * T), (3 * T, length))  # of the sequences in every row
    valid_BL = np.zeros((B, length), bool)
    reset_BS = np.zeros((B, 4), bool)
    for start, end in spans:
        valid_BL[:, start:end] = True
        reset_BS[:, start // T] = True
    packed = read(config, tokens_BL, valid_BL, reset_BS, dirty_state(config))
    for start, end in spans:
        alone_BL, valid_alone_BL = np.zeros_like(tokens_BL), np.zeros_like(valid_BL)
        alone_BL[:, :end - start] = tokens_BL[:, start:end]
        valid_alone_BL[:, :end - start] = True
        alone = read(config, alone_BL, valid_alone_BL)
        assert np.array_equal(packed.logits[:, start:end], alone.logits[:, :end - start])
    assert same(packed.state, alone.state)


@each_case
def test_segment_without_a_valid_token_leaves_the_state(name):
    config = CASES[name]
    tokens_BT = sample(config)[0][:, :config.segment_length]
    before = dirty_state(config)
    valid_BT = np.ones(tokens_BT.shape, bool)
    valid_BT[1] = False
    after = read_one(config, tokens_BT, before, valid_BT).state
    assert same(row(after, 1), row(before, 1))
    carries = config.memory.num_layers or config.attention_window
    assert same(row(after, 0), row(before, 0)) == (not carries)


@each_case
def test_contents_of_padding_never_matter(name):
    config = CASES[name]
    tokens_BL, valid_BL = sample(config)
    valid_BL = valid_BL & (np.random.default_rng(1).random(valid_BL.shape) < 0.8)
    changed_BL = np.where(valid_BL, tokens_BL, (tokens_BL + 7) % V)
    one, other = (read(config, tokens, valid_BL) for tokens in (tokens_BL, changed_BL))
    assert np.array_equal(one.logits[valid_BL], other.logits[valid_BL])
    assert same(one.state, other.state)


@each_case
@pytest.mark.parametrize("jitted", [False, True])
def test_a_new_state_can_be_donated(name, jitted):
    """No two of its arrays share a buffer."""
    config = CASES[name]
    make = (lambda: jax.jit(init_state, static_argnums=(0, 1))(config, B)) if jitted else (
        lambda: init_state(config, B))
    advance = jax.jit(lambda state: jax.tree.map(lambda a: a + a, state), donate_argnums=0)
    state = make()
    after = advance(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert jax.tree.structure(after) == jax.tree.structure(make())


@some_cases
def test_trailing_padding_changes_nothing(name):
    """To the segment's end, and whole segments beyond it."""
    config = CASES[name]
    T, tokens_BL = config.segment_length, sample(config)[0]
    length = 2 * T - 2
    plain = read(config, tokens_BL[:, :length])
    for padded_length in (2 * T, 4 * T - 2):
        padded = read(config, tokens_BL[:, :padded_length],
                      until(padded_length, length, length, length))
        check_close((padded.logits[:, :length], padded.state), (plain.logits, plain.state))


@some_cases
def test_short_segment_equals_the_padded_one(name):
    config = CASES[name]
    tokens_BT = sample(config)[0][:, :config.segment_length]
    short = read_one(config, tokens_BT[:, :3], dirty_state(config))
    padded = read_one(config, tokens_BT, dirty_state(config), until(config.segment_length, 3, 3, 3))
    check_close((short.logits, short.state), (padded.logits[:, :3], padded.state), atol=4e-6)
