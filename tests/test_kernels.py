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
    unroll,
)

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
