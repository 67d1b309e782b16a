"""The rules that hold for every memory: causal, carried, reset per row, padding writes nothing,
off means Llama, stated gradient flow, partial placement."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm2_jax.config import MemoryConfig, ModelConfig, RopeScaling
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.model.schedule import apply_segments, scan_segments, split_segments

V = 19
B = 3


def make_config(T=5, M=4, P=1, window=0, **changes):
    memory = MemoryConfig(num_slots=M, num_heads=2, num_layers=P,
                          top_k=changes.pop("top_k", 0))
    small = dict(vocab_size=V, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                 mlp_dim=24, segment_length=T, memory=memory, attention_window=window)
    return ModelConfig(**{**small, **changes})


CASES = {
    "memory in all blocks": make_config(T=6, M=4, P=2),
    "more slots than tokens, top 3": make_config(T=4, M=9, top_k=3, tie_embeddings=False),
    "more slots than channels": make_config(M=19),
    "no memory": make_config(P=0),
    "window and memory": make_config(T=6, window=3),
    "window beyond a segment": make_config(T=4, M=3, P=2, window=11),
    "window alone": make_config(P=0, window=5),
}
each_case = pytest.mark.parametrize("name", CASES)


@cache
def variables(config):
    return reference.params(config)


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
    """One segment."""
    valid_BT = np.ones(tokens_BT.shape, bool) if valid_BT is None else valid_BT
    reset_B = np.zeros(len(tokens_BT), bool) if reset_B is None else reset_B
    return jit_apply(config)(variables(config), tokens_BT, state, valid_BT, reset_B)


def sample(config, seed=0):
    """Tokens [B, L] of four segments, the last not full, and valid: row 1 ends earlier."""
    length = 4 * config.segment_length - 2
    tokens_BL = np.random.default_rng(seed).integers(0, V, (B, length), dtype=np.int32)
    ends = np.array([length, 2 * config.segment_length + 2, length])
    return tokens_BL, np.arange(length)[None, :] < ends[:, None]


def dirty_state(config):
    """A state that one segment has gone into."""
    tokens_BL, _ = sample(config, seed=5)
    return read_one(config, tokens_BL[:, :config.segment_length], init_state(config, B)).state


def row(state, index):
    return jax.tree.map(lambda a: np.asarray(a[index] if a.ndim == 2 else a[:, index]), state)


def same(a, b):
    """Whether two trees are equal bit for bit."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def check_close(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(
        np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=0, atol=tolerance), a, b)


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
        assert np.array_equal(after[:, :p], before[:, :p])
        differs_BL = (after != before).any(axis=-1)
        if not valid_BL[1, p]:
            assert not differs_BL[1][valid_BL[1]].any()
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
    """One call, segment by segment, and two calls: the same logits and the same state."""
    config = CASES[name]
    T = config.segment_length
    tokens_BL, valid_BL = sample(config)
    whole = read(config, tokens_BL, valid_BL)
    state, logits = init_state(config, B), []
    for start in range(0, tokens_BL.shape[1], T):
        part = np.s_[:, start:start + T]
        out = read_one(config, tokens_BL[part], state, valid_BL[part])
        state = out.state
        logits.append(out.logits)
    check_close((np.concatenate(logits, axis=1), state), (whole.logits, whole.state))
    first = read(config, tokens_BL[:, :2 * T], valid_BL[:, :2 * T])
    second = read(config, tokens_BL[:, 2 * T:], valid_BL[:, 2 * T:], state=first.state)
    logits_BLV = np.concatenate([first.logits, second.logits], axis=1)
    check_close((logits_BLV, second.state), (whole.logits, whole.state))


@pytest.mark.parametrize("name", ["memory in all blocks", "window and memory"])
def test_carried_bit_for_bit(name):
    """Operation by operation, outside any compiled whole, the numbers are the same."""
    config = CASES[name]
    model, T = LanguageModel(config), config.segment_length
    tokens_BL = sample(config)[0][:, :3 * T]
    with jax.disable_jit():
        whole = apply_segments(model, variables(config), tokens_BL, init_state(config, B))
        first = apply_segments(model, variables(config), tokens_BL[:, :2 * T],
                               init_state(config, B))
        second = model.apply(variables(config), tokens_BL[:, 2 * T:], first.state)
    assert np.array_equal(whole.logits, np.concatenate([first.logits, second.logits], axis=1))
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
def test_trailing_padding_changes_nothing(name):
    """Short of the segment's end, to it, and a segment beyond."""
    config = CASES[name]
    tokens_BL = sample(config)[0][:, :2 * config.segment_length - 2]
    length = tokens_BL.shape[1]
    plain = read(config, tokens_BL)
    for extra in (1, config.segment_length + 1):
        padded_BL = np.pad(tokens_BL, ((0, 0), (0, extra)), constant_values=3)
        valid_BL = np.arange(length + extra)[None, :] < np.full((B, 1), length)
        padded = read(config, padded_BL, valid_BL)
        check_close((padded.logits[:, :length], padded.state), (plain.logits, plain.state))


def plain_llama(params, config, tokens_BT):
    """A Llama-3 decoder written out, one block after the other; for MHA without scaling."""
    def norm(x, scale):
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + config.norm_eps)
        return x * jnp.broadcast_to(scale, x.shape)

    H, T = config.head_dim, tokens_BT.shape[1]
    angle = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(0, H, 2) / H)
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[None, :, None] for f in (np.cos, np.sin))

    def rotate(x):
        c, s = (jnp.broadcast_to(a, (*x.shape[:-1], H // 2)) for a in (cos, sin))
        a, b = x[..., :H // 2], x[..., H // 2:]
        return jnp.concatenate([a * c - b * s, b * c + a * s], axis=-1)

    x = params["embedding"][tokens_BT]
    for layer in range(config.num_layers):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        a = norm(x, p["attention_norm"]["scale"])
        q, k, v = (jnp.einsum("BTD,DNH->BTNH", a, p["attention"][name]["kernel"])
                   for name in ("q_proj", "k_proj", "v_proj"))
        heads = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + jnp.einsum("BTNH,NHD->BTD", heads, p["attention"]["o_proj"]["kernel"])
        a = norm(x, p["mlp_norm"]["scale"])
        gate = jax.nn.silu(jnp.einsum("BTD,DF->BTF", a, p["mlp"]["gate_proj"]["kernel"]))
        up = jnp.einsum("BTD,DF->BTF", a, p["mlp"]["up_proj"]["kernel"])
        x = x + jnp.einsum("BTF,FD->BTD", gate * up, p["mlp"]["down_proj"]["kernel"])
    x = norm(x, params["final_norm"]["scale"])
    if config.tie_embeddings:
        return jnp.einsum("BTD,VD->BTV", x, params["embedding"])
    return jnp.einsum("BTD,DV->BTV", x, params["lm_head"]["kernel"])


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "num_kv_heads": 4}])
def test_off_means_llama(changes):
    """Without a memory: no other parameter than Llama's, and its logits bit for bit."""
    config = make_config(T=7, P=0, **changes)
    params = variables(config)["params"]
    names = {key.key for path, _ in jax.tree_util.tree_leaves_with_path(params) for key in path}
    assert names == {"embedding", "blocks", "attention_norm", "attention", "q_proj", "k_proj",
                     "v_proj", "o_proj", "mlp_norm", "mlp", "gate_proj", "up_proj", "down_proj",
                     "final_norm", "kernel", "scale"} | (
                         set() if config.tie_embeddings else {"lm_head"})
    tokens_BT = sample(config)[0][:, :7]
    with jax.disable_jit():
        ours = LanguageModel(config).apply(variables(config), tokens_BT, init_state(config, B))
        wanted = plain_llama(params, config, tokens_BT)
    assert ours.state.memory is None and ours.state.window is None
    assert np.array_equal(ours.logits, wanted)
    jitted = jax.jit(lambda p, tokens: plain_llama(p, config, tokens))(params, tokens_BT)
    check_close(read_one(config, tokens_BT, init_state(config, B)).logits, jitted)


def segment_gradients(config, bptt_segments, S=5):
    """[S, S]: the largest gradient of the loss in segment s by an embedding of segment r.

    The segments have tokens of their own, and the embeddings serve as inputs only.
    """
    T = config.segment_length
    tokens_BL = np.tile(np.arange(S * T, dtype=np.int32), (2, 1))
    config = replace(config, vocab_size=S * T, tie_embeddings=False)
    start = reference.params(config)

    def losses(embedding):
        own = {"params": {**start["params"], "embedding": embedding}}
        out = apply_segments(LanguageModel(config), own, tokens_BL, init_state(config, 2),
                             bptt_segments=bptt_segments)
        return jnp.square(out.logits).reshape(2, S, -1).sum(axis=(0, 2)), out.logits

    by_SVD, logits = jax.jit(jax.jacrev(losses, has_aux=True))(start["params"]["embedding"])
    return np.abs(by_SVD).reshape(S, S, -1).max(axis=-1), np.asarray(logits)


@pytest.mark.parametrize("kind", ["memory", "window", "both"])
def test_gradient_stays_in_its_group(kind):
    """Exactly zero for the segments before the group, not zero within it."""
    config = make_config(T=3, P=0 if kind == "window" else 2, window=0 if kind == "memory" else 4)
    s, r = np.indices((5, 5))
    _, unlimited = segment_gradients(config, 0)
    for g in (0, 1, 2, 3, 5):
        by_segment, logits = segment_gradients(config, g)
        within = (r <= s) & ((r // g == s // g) if g else True)
        if kind == "window":
            within_reach = within & (s - r <= 1)
            assert (by_segment[within_reach] > 1e-5).all()
        else:
            assert (by_segment[within] > 1e-5).all()
        assert (by_segment[~within] == 0).all()
        check_close(logits, unlimited)


def test_recomputing_changes_neither_values_nor_gradients():
    """Each policy inside a block, and segments recomputed or kept."""
    base = make_config(T=4, P=1, window=2)
    tokens_BL, valid_BL = sample(base)
    xs = (split_segments(tokens_BL, 4), split_segments(valid_BL, 4, fill=False))

    def run(remat_segments, policy):
        model = LanguageModel(replace(base, remat=policy))

        def loss(own):
            def step(state, x):
                out = model.apply(own, x[0], state, x[1])
                return out.state, jnp.square(out.logits)

            state, ys = scan_segments(step, init_state(base, B), xs, remat=remat_segments)
            return ys.mean() + jnp.square(state.memory).mean()

        return jax.jit(jax.value_and_grad(loss))(variables(base))

    wanted = run(False, "none")
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 1e-5
    for remat_segments, policy in ((True, "none"), (True, "dots"), (False, "full")):
        check_close(run(remat_segments, policy), wanted)


@pytest.mark.parametrize("P", [0, 1, 6, 12, 16])
def test_memory_in_some_blocks(P):
    config = make_config(P=P, num_layers=16)
    D, F, K, H = 16, 24, 2, 4
    block = 2 * D * D + 2 * D * K * H + 3 * D * F + 2 * D
    memory = 8 * D * D + 3 * D + 2 * D  # kernels, gate biases, slot and write norms
    leaves = jax.tree.leaves(variables(config))
    assert sum(leaf.size for leaf in leaves) == 16 * block + P * memory + V * D + D
    tokens_BL, valid_BL = sample(config)
    out = read(config, tokens_BL, valid_BL)
    assert np.isfinite(out.logits).all() and out.logits.shape == (*tokens_BL.shape, V)
    if P:
        assert out.state.memory.shape == (P, B, 4, D)
        moved = np.abs(out.state.memory - init_state(config, B).memory).max(axis=(1, 2, 3))
        assert (moved > 1e-3).all()
    else:
        assert out.state.memory is None
