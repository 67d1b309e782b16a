"""Attention's kernels: what they refuse, and what they make of a row without keys."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm2_jax.model.kernels import attention

Q = jnp.ones((2, 3, 4, 8))


def test_cudnn_is_refused_where_there_is_no_gpu():
    with pytest.raises(ValueError, match="attention_implementation is 'cudnn' on cpu; it needs"):
        attention(Q, Q, Q, jnp.ones((2, 3, 3), bool), implementation="cudnn")


def test_a_token_that_sees_nothing_is_finite():
    out = attention(Q, Q, Q, jnp.zeros((2, 3, 3), bool), implementation="xla")
    assert np.isfinite(out).all()
