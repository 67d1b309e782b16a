"""Attention kernels give the values and gradients of XLA's attention, without its affinities."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from lm2_jax import partition
from lm2_jax.model import kernels
from lm2_jax.model.kernels import Mask, chunked, cudnn, dispatch
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

B, N, K, H = 2, 4, 2, 8


def operands(T, S, dtype="float32", seed=0):
    """q, k, v, and what the gradients of output and log-sum-exp are taken with."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), kind) for shape, kind in (
        ((B, T, N, H), dtype), ((B, S, K, H), dtype), ((B, S, K, H), dtype),
        ((B, T, N, H), "float32"), ((B, N, T), "float32")))


def mask_of(kind, S):
    """A mask by name; some queries of a causal one see no key."""
    rng = np.random.default_rng(1)
    valid_BS = jnp.asarray(rng.random((B, S)) < 0.7).at[:, 0].set(False)
    return {"none": Mask(), "keys": Mask(valid_BS), "causal": Mask(causal=True),
            "causal keys": Mask(valid_BS, causal=True),
            "a row without keys": Mask(valid_BS.at[1].set(False))}[kind]


def results(attention, q, k, v, of_out, of_lse, mask):
    """Output, log-sum-exp and the gradients, of the queries whose results are specified."""
    seen_BTS = mask.dense(q.shape[1], k.shape[1])
    sees_BT = jnp.ones(q.shape[:2], bool) if seen_BTS is None else (
        jnp.broadcast_to(seen_BTS.any(axis=2), q.shape[:2]))
    if mask.causal and mask.valid_BS is not None:
        sees_BT &= mask.valid_BS[:, -q.shape[1]:]

    def value(q, k, v):
        out, lse = attention(q, k, v, mask)
        assert out.dtype == jnp.float32 and lse.dtype == jnp.float32
        finite = jnp.isfinite(out).all() & jnp.isfinite(lse).all()
        out = jnp.where(sees_BT[..., None, None], out, 0)
        lse = jnp.where(sees_BT[:, None], lse, 0)
        return jnp.sum(out * of_out) + jnp.sum(lse * of_lse), (out, lse, finite)

    (_, (out, lse, finite)), gradients = jax.jit(
        jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    assert finite
    return [np.asarray(x, np.float64) for x in (out, lse, *gradients)]


def named(implementation):
    return lambda *args: kernels.attention(*args, implementation, out_dtype="float32",
                                           log_sum_exp=True)


def check(implementation, mask, T, S, dtype="float32"):
    arrays = operands(T, S, dtype)
    exact = results(named("xla"), *(x.astype(jnp.float32) for x in arrays), mask)
    ours = results(named(implementation), *arrays, mask)
    for a, b in zip(ours, exact, strict=True):
        tolerance = 1e-5 if dtype == "float32" else 2**-6
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("kind,T,S,dtype", [
    ("a row without keys", 9, 21, "bfloat16"), ("causal keys", 13, 30, "float32"),
    pytest.param("none", 16, 24, "float32", marks=pytest.mark.slow),
    pytest.param("causal", 19, 19, "float32", marks=pytest.mark.slow)])
def test_chunks_give_what_xla_gives(monkeypatch, kind, T, S, dtype):
    monkeypatch.setattr(chunked, "CPU_CHUNK", 8)
    check("chunked", mask_of(kind, S), T, S, dtype)


@pytest.mark.parametrize("kind,T,S,dtype", [
    ("causal keys", 140, 300, "float32"),
    pytest.param("a row without keys", 130, 257, "bfloat16", marks=pytest.mark.slow)])
def test_the_kernel_of_tpus_interpreted_gives_what_xla_gives(kind, T, S, dtype):
    check("splash", mask_of(kind, S), T, S, dtype)


@pytest.mark.parametrize("log_sum_exp", ["cudnn", "chunked"])
@pytest.mark.parametrize("kind,T,S", [
    ("a row without keys", 9, 21), ("causal keys", 9, 21), ("causal keys", 8, 21), ("none", 7, 4),
    ("none", 8, 6), ("causal", 7, 7)])
def test_keys_in_front_and_lengths_are_the_mask_that_cudnn_needs(monkeypatch, kind, T, S,
                                                                log_sum_exp):
    """XLA's attention in the place of cuDNN's, with the same arguments. An odd number of queries or
    keys is refused, as cuDNN's is where gradients are taken. A log-sum-exp by cuDNN has no gradient
    of its own."""
    plain = jax.nn.dot_product_attention
    calls = []

    def xla(q, k, v, *, implementation, **options):
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0
        calls.append(options)
        return plain(q, k, v, implementation="xla", **options)

    class Fused:
        MaskType = cudnn.fused.MaskType

        @staticmethod
        def dot_product_attention(q, k, v, *, scale, mask_type, return_residual, q_seqlen=None,
                                  kv_seqlen=None):
            assert return_residual and scale == q.shape[-1] ** -0.5
            assert (mask_type == Fused.MaskType.PADDING) == (kv_seqlen is not None)
            out = xla(q, k, v, implementation="cudnn", key_value_seq_lengths=kv_seqlen)
            valid = None if kv_seqlen is None else jnp.arange(k.shape[1])[None] < kv_seqlen[:, None]
            affinities = kernels.affinities(q, k, Mask(valid))
            return out, jax.lax.stop_gradient(jax.nn.logsumexp(affinities, axis=-1))

    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    monkeypatch.setattr(cudnn, "fused", Fused if log_sum_exp == "cudnn" else None)
    mask, arrays = mask_of(kind, S), operands(T, S)

    def ours(q, k, v, mask):
        out, log_sum = cudnn.attention(q, k, v, mask, log_sum_exp=True)
        assert (log_sum is not None) == (log_sum_exp == "cudnn" and not mask.causal)
        return out, chunked.log_sum_exp(q, k, mask, log_sum)

    for a, b in zip(results(ours, *arrays, mask), results(named("xla"), *arrays, mask),
                    strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert calls and not any("mask" in options or "bias" in options for options in calls)


def test_the_platform_decides_what_auto_is(monkeypatch):
    def chosen(platform, T, S, dtype="bfloat16", capability="9.0"):
        monkeypatch.setattr(dispatch, "platform", lambda: platform)
        monkeypatch.setattr(cudnn.jax, "default_backend", lambda: platform)
        monkeypatch.setattr(cudnn.jax, "local_devices", lambda: [
            type("Device", (), {"compute_capability": capability})])
        q, k = (jax.ShapeDtypeStruct((1, length, 8, 256), dtype) for length in (T, S))
        return dispatch._choose("auto", q, k)

    assert chosen("tpu", 2048, 2048) == "splash"
    assert chosen("tpu", 2048, 16) == "xla"
    assert chosen("gpu", 2048, 16) == chosen("gpu", 2, 16) == "cudnn"
    assert chosen("gpu", 1, 2048) == "xla"
    assert chosen("gpu", 64, 64, "float32") == "xla"
    assert chosen("gpu", 2048, 2048, capability="8.6") == "chunked"
    assert chosen("cpu", 64, 64) == "xla"
    assert chosen("cpu", 256, 256) == "chunked"
    assert chosen("", 64, 64) == "xla"


@pytest.mark.parametrize("implementation", [
    "chunked", pytest.param("splash", marks=pytest.mark.slow)])
def test_a_mesh_gives_what_one_device_gives(implementation):
    arrays, mask = operands(130, 150), mask_of("causal keys", 150)
    alone = results(named("xla"), *arrays, mask)
    mesh = partition.make_mesh({"data": 2, "fsdp": 1, "tensor": 2}, jax.devices()[:4])
    with partition.use(mesh):
        split = [jax.device_put(x, partition.named(
            mesh, "act_batch", "act_len", "act_heads", "act_head_dim")) for x in arrays[:3]]
        ours = results(named(implementation), *split, *arrays[3:], mask)
    for a, b in zip(ours, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_a_mesh_does_not_divide_is_whole_on_its_devices():
    """Three rows and one head of keys over two ways of rows and two of heads."""
    q, k, v = (jnp.ones((3, 5, heads, 8)) for heads in (2, 1, 1))
    with partition.use(partition.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])):
        out = jax.jit(lambda *args: kernels.attention(*args, Mask(), "chunked"))(q, k, v)
    np.testing.assert_allclose(out, 1, rtol=1e-6)


# A model.

LM2 = model_cases.make_config(T=6, M=5, P=2)
MODELS = {"all blocks": LM2, "window": model_cases.make_config(T=4, M=3, P=1, window=11),
          "paper": model_cases.make_config(T=6, M=5, P=1, write="paper"),
          "memory tokens": model_cases.make_config(T=6, M=3, P=2, kind="rmt", window=4)}


def read(config, implementation):
    """Logits of valid tokens, the state, and the parameters' gradients, over three segments of
    padded and packed rows."""
    model = LanguageModel(dataclasses.replace(config, attention_implementation=implementation))
    rng, (rows, L) = np.random.default_rng(0), (3, 3 * config.segment_length - 1)
    tokens = jnp.asarray(rng.integers(0, model_cases.V, (rows, L), np.int32))
    valid = jnp.asarray((np.arange(L) < np.array([L, 4, 0])[:, None])
                        & (rng.random((rows, L)) < 0.8))
    reset = jnp.asarray([[True, False, True], [True, False, False], [True, True, False]])

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(variables):
        out = apply_segments(model, variables, tokens, init_state(config, rows), valid, reset)
        logits = jnp.where(valid[..., None], out.logits, 0)
        return jnp.sum(logits**2) + jnp.sum(jax.tree.leaves(out.state.memory)[0]**2), (
            logits, out.state)

    return run(model_cases.variables(config))


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("name,implementation", [
    ("window", "chunked"), pytest.param("window", "splash", marks=pytest.mark.slow),
    pytest.param("all blocks", "splash", marks=pytest.mark.slow),
    pytest.param("paper", "chunked", marks=pytest.mark.slow),
    pytest.param("memory tokens", "chunked", marks=pytest.mark.slow)])
def test_a_model_reads_writes_and_learns_as_with_xla(monkeypatch, name, implementation):
    monkeypatch.setattr(chunked, "CPU_CHUNK", 3)
    wanted, found = (read(MODELS[name], kind) for kind in ("xla", implementation))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, float(jnp.abs(b).max())))


# What a program holds.

LARGE = model_cases.make_config(T=256, M=384, P=1, embed_dim=32, dtype="bfloat16", window=128)


def step(implementation, **changes):
    """The gradient of a segment's logits and state, to be traced."""
    config = dataclasses.replace(LARGE, attention_implementation=implementation, **changes)
    model = LanguageModel(config)

    def loss(variables, tokens, state):
        out = model.apply(variables, tokens, state, logits=False)
        return jnp.sum(out.hidden.astype(jnp.float32)) + jnp.sum(out.state.memory)

    abstract = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype))
    return jax.jit(jax.grad(loss)), (abstract(model_cases.variables(config)),
                                     jax.ShapeDtypeStruct((2, 256), jnp.int32),
                                     jax.eval_shape(lambda: init_state(config, 2)))


def arrays(jaxpr):
    """(shape, dtype) of all that a program computes, also in its loops."""
    for equation in jaxpr.eqns:
        yield from ((var.aval.shape, var.aval.dtype) for var in equation.outvars
                    if hasattr(var.aval, "shape"))
        for inner in jaxprs_in_params(equation.params):
            yield from arrays(inner)


def affinities(implementation):
    function, arguments = step(implementation)
    found = {shape for shape, _ in arrays(function.trace(*arguments).jaxpr.jaxpr)}
    return {shape for shape in found if {256, 384} <= set(shape) and len(shape) > 2}


def test_no_program_but_that_of_xla_has_an_array_of_tokens_by_slots():
    """T = 256 and M = W + T = 384."""
    assert affinities("xla")
    assert not affinities("splash")


def test_chunks_take_less_memory():
    """By XLA's analysis, of attention, read and write of 2048 tokens and slots."""
    q, k, v = (jax.ShapeDtypeStruct((1, 2048, heads, 64), "bfloat16") for heads in (8, 2, 2))

    def temporaries(implementation):
        def loss(q, k, v):
            out, lse = kernels.attention(q, k, v, Mask(causal=True), implementation,
                                         log_sum_exp=True)
            return jnp.sum(out.astype(jnp.float32)) + jnp.sum(lse)
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("xla") > 4 * 8 * 2048**2
    assert temporaries("chunked") < 4 * 8 * 2048**2 / 3


def test_a_training_step_is_lowered_for_tpus_on_a_cpu():
    """Forward and backward kernels of attention, of the read and of the write."""
    function, arguments = step("splash")
    text = function.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 6


def test_attention_is_lowered_for_gpus_on_a_cpu(monkeypatch):
    """With lengths, never with a mask as a bias."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn_calls

    monkeypatch.setattr(cudnn_calls, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn_calls, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn_calls, "is_cuda_compute_capability_equal", lambda capability: False)
    monkeypatch.setattr(dispatch.jax, "default_backend", lambda: "gpu")
    function, arguments = step("cudnn")
    text = function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__cudnn$fmhaSoftmax(") >= 3
    assert text.count("__cudnn$fmhaSoftmaxBackward(") >= 3
    assert "fmhaScaleBias" not in text and '\\22mask_type\\22: \\22PADDING_CAUSAL' in text


# Banks between segments.

@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.slow
def test_a_bank_in_bfloat16_is_near_that_in_float32_and_stays_where_nothing_is_written():
    low = dataclasses.replace(LM2, memory=dataclasses.replace(LM2.memory, bank_dtype="bfloat16"))
    exact_logits, (logits, state) = read(LM2, "xla")[1][0], read(low, "xla")[1]
    assert state.memory.dtype == jnp.bfloat16 == init_state(low, 3).memory.dtype
    np.testing.assert_allclose(logits, exact_logits, atol=0.02 * float(jnp.abs(exact_logits).max()))
    np.testing.assert_array_equal(state.memory[:, 2].astype(jnp.float32),
                                  init_state(low, 3).memory[:, 2].astype(jnp.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_backpropagation_through_time_keeps_banks_of_that_dtype_alone(dtype):
    memory = dataclasses.replace(LM2.memory, bank_dtype=dtype)
    model = LanguageModel(dataclasses.replace(LM2, memory=memory, remat="full"))

    def loss(variables, tokens, state):
        return jnp.sum(apply_segments(model, variables, tokens, state, logits=False).hidden)

    traced = jax.jit(jax.grad(loss)).trace(
        model_cases.variables(LM2), jnp.zeros((3, 42), jnp.int32), init_state(model.config, 3))
    kept = {str(kind) for shape, kind in arrays(traced.jaxpr.jaxpr) if shape == (7, 2, 3, 5, 16)}
    assert kept == {dtype}


def test_a_bank_between_segments_is_split_over_the_devices_that_split_heads():
    mesh = partition.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    with partition.use(mesh):
        state = jax.jit(lambda: init_state(LM2, 4))()
        assert state.memory.sharding.shard_shape(state.memory.shape) == (2, 2, 5, 8)
