"""Attention kernels: what they refuse, rows without keys. Loops: how far they are unrolled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm2_jax import partition
from lm2_jax.model.kernels import (
    CPU_COPY,
    CPU_UNROLL,
    Mask,
    attention,
    attention_with_cache,
    product,
    unroll,
)
from lm2_jax.model.kernels.products import GPU_ROWS

Q = jnp.ones((2, 3, 4, 8))


def test_cudnn_is_refused_where_there_is_no_gpu():
    with pytest.raises(ValueError, match="attention_implementation is 'cudnn' on cpu; it needs"):
        attention(Q, Q, Q, Mask(), implementation="cudnn")


def test_a_token_that_sees_nothing_is_finite():
    out = attention(Q, Q, Q, Mask(jnp.zeros((2, 3), bool)), implementation="xla")
    assert np.isfinite(out).all()


@pytest.mark.parametrize("length,on_cpu", [
    (1, 1), (3, 3), (CPU_UNROLL, CPU_UNROLL), (CPU_UNROLL + 1, 1), (30, 1)])
def test_short_loops_are_unrolled_whole_on_one_cpu_device_alone(length, on_cpu):
    assert unroll(length) == unroll(length, CPU_COPY) == on_cpu
    assert unroll(length, CPU_COPY + 1) == 1
    for mesh, wanted in ((partition.make_mesh({}, jax.devices()[:1]), on_cpu),
                         (partition.make_mesh({"data": 2}, jax.devices()[:2]), 1),
                         (partition.make_mesh({}, 1), 1)):
        with partition.use(mesh):
            assert unroll(length) == wanted


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("bfloat16", 0.02)])
def test_attention_with_a_cache_is_attention_over_both(dtype, tolerance):
    B, T, C, N, K, H = 2, 3, 5, 4, 2, 8
    rng = np.random.default_rng(0)
    q, k, v, key, value = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (
        (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, K, C, H), (B, K, C, H)))
    mask_BTS = jnp.asarray(rng.random((B, T, C + T)) < 0.7).at[:, :, 0].set(True)
    both = [jnp.concatenate([cached.swapaxes(1, 2), new], axis=1)
            for cached, new in ((key, k), (value, v))]
    found = jax.jit(attention_with_cache)(q, k, v, key, value, mask_BTS)
    assert found.dtype == q.dtype
    wanted = jax.nn.dot_product_attention(q, *both, mask=mask_BTS[:, None])
    np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32),
                               atol=tolerance)


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
def test_a_row_alone_is_padded_on_gpus(rows, out_dtype, monkeypatch):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (rows, 24), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (24, 40), jnp.bfloat16)
    expected = jnp.matmul(x, kernel, preferred_element_type=out_dtype)
    monkeypatch.setattr("lm2_jax.model.kernels.products.on_gpu", lambda: True)
    found = product(x, kernel, out_dtype)
    assert found.dtype == out_dtype and found.shape == (rows, 40)
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=1e-2,
                               atol=1e-2)
    traced = jax.make_jaxpr(product, static_argnums=2)(x, kernel, out_dtype)
    assert (f"bf16[{GPU_ROWS},24]" in str(traced)) == (rows == 1)
