"""Attention that computes the affinities of one chunk of queries and one of keys at a time.

It is written in JAX alone, for every backend. The softmax is rescaled from chunk to chunk
(arXiv 2205.14135). The backward pass computes the affinities again, and their softmax by the
log-sum-exp of the forward pass.
"""

import functools

import jax
import jax.numpy as jnp

from lm2_jax.model.kernels.mask import Mask
from lm2_jax.model.kernels.platform import platform
from lm2_jax.model.kernels.whole import MASKED

CHUNK, CPU_CHUNK = 1024, 128  # most queries or keys of a chunk; on a CPU it fits into the cache


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask, out_dtype
              ) -> tuple[jax.Array, jax.Array]:
    """Returns (softmax(q k^T / sqrt(H)) v, log-sum-exp of the affinities, float32 [B, N, T]).

    The arguments are those of `kernels.attention`.
    """
    B, T, N, _ = q_BTNH.shape
    out_BKGTH, lse_BKGT = _attention(*_in_chunks(q_BTNH, k_BSKH, v_BSKH, mask))
    out_BTNH = jnp.moveaxis(out_BKGTH[:, :, :, :T], 3, 1).reshape(B, T, N, v_BSKH.shape[-1])
    return out_BTNH.astype(out_dtype), lse_BKGT[..., :T].reshape(B, N, T)


def log_sum_exp(q_BTNH: jax.Array, k_BSKH: jax.Array, mask: Mask,
                known_BNT: jax.Array | None = None) -> jax.Array:
    """Returns the log-sum-exp of the affinities of each query and head, float32 [B, N, T].

    Args:
      known_BNT: the result, if another kernel has computed it; it gets its gradient here.
    """
    v_BSKH = k_BSKH[..., :0]
    if known_BNT is None:
        return attention(q_BTNH, k_BSKH, v_BSKH, mask, jnp.float32)[1]
    q_BKGTH, k_BKSH, v_BKSH, valid_BS, sizes = _in_chunks(q_BTNH, k_BSKH, v_BSKH, mask)
    (B, N, T), (_, K, G) = known_BNT.shape, q_BKGTH.shape[:3]
    known_BKGT = _padded(known_BNT.reshape(B, K, G, T), sizes[1], axis=3)
    lse_BKGT = _known(q_BKGTH, k_BKSH, v_BKSH, valid_BS, known_BKGT, sizes)
    return lse_BKGT[..., :T].reshape(B, N, T)


def _in_chunks(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> tuple:
    """Returns what `_attention` takes."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    valid_BS = jnp.ones((B, S), bool) if mask.valid_BS is None else mask.valid_BS
    rows, columns = _size(T), _size(S)
    q_BKGTH = jnp.moveaxis(q_BTNH.reshape(B, T, K, N // K, H), 1, 3)
    return (_padded(q_BKGTH, rows, axis=3), *(_padded(x.swapaxes(1, 2), columns, axis=2)
                                              for x in (k_BSKH, v_BSKH)),
            _padded(valid_BS, columns, axis=1), (S - T if mask.causal else None, rows, columns))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q_BKGTH, k_BKSH, v_BKSH, valid_BS, sizes) -> tuple[jax.Array, jax.Array]:
    """`attention` of whole chunks, both results float32.

    Args:
      sizes: (how many keys precede the queries if the mask is causal, else None; queries and keys
        of a chunk).
    """
    offset, rows, _ = sizes
    scale = q_BKGTH.shape[-1] ** -0.5

    def queries(_, xs):
        number, q_BKGRH = xs

        def keys(j, carry):
            out_BKGRH, sum_BKGR, max_BKGR = carry
            k_BKCH, v_BKCH, seen_BRC = _chunk(k_BKSH, v_BKSH, valid_BS, number, j, sizes)
            affinity = _product("BKGRH,BKCH->BKGRC", q_BKGRH, k_BKCH) * scale
            affinity = jnp.where(seen_BRC[:, None, None], affinity, MASKED)
            new_max = jnp.maximum(max_BKGR, affinity.max(axis=-1))
            kept, p = jnp.exp(max_BKGR - new_max), jnp.exp(affinity - new_max[..., None])
            out_BKGRH = out_BKGRH * kept[..., None] + _product(
                "BKGRC,BKCH->BKGRH", p.astype(v_BKCH.dtype), v_BKCH)
            return out_BKGRH, sum_BKGR * kept + p.sum(axis=-1), new_max

        shape = q_BKGRH.shape[:-1]
        first = (jnp.zeros((*shape, v_BKSH.shape[-1]), jnp.float32),
                 jnp.zeros(shape, jnp.float32), jnp.full(shape, MASKED, jnp.float32))
        out, total, largest = _loop(keys, first, k_BKSH, number, sizes)
        return None, (out / total[..., None], largest + jnp.log(total))

    _, (out, lse) = jax.lax.scan(queries, None, _numbered(q_BKGTH, rows))
    return _joined(out), _joined(lse)


def _forward(q_BKGTH, k_BKSH, v_BKSH, valid_BS, sizes):
    out, lse = _attention(q_BKGTH, k_BKSH, v_BKSH, valid_BS, sizes)
    return (out, lse), (q_BKGTH, k_BKSH, v_BKSH, valid_BS, out, lse)


def _backward(sizes, residuals, gradients):
    q_BKGTH, k_BKSH, v_BKSH, valid_BS, out, lse = residuals
    (_, rows, columns), (of_out, of_lse) = sizes, gradients
    scale, dtype = q_BKGTH.shape[-1] ** -0.5, q_BKGTH.dtype
    delta_BKGT = jnp.sum(out * of_out, axis=-1) - of_lse

    def queries(carry, xs):
        number, q_BKGRH, do_BKGRH, lse_BKGR, delta_BKGR = xs

        def keys(j, carry):
            dq, dk, dv = carry
            k_BKCH, v_BKCH, seen_BRC = _chunk(k_BKSH, v_BKSH, valid_BS, number, j, sizes)
            affinity = _product("BKGRH,BKCH->BKGRC", q_BKGRH, k_BKCH) * scale
            p = jnp.where(seen_BRC[:, None, None], jnp.exp(affinity - lse_BKGR[..., None]), 0.0)
            dp = _product("BKGRH,BKCH->BKGRC", do_BKGRH, v_BKCH)
            ds = (p * (dp - delta_BKGR[..., None]) * scale).astype(dtype)
            p = p.astype(dtype)
            return (dq + _product("BKGRC,BKCH->BKGRH", ds, k_BKCH),
                    _add(dk, j * columns, _product("BKGRC,BKGRH->BKCH", ds, q_BKGRH)),
                    _add(dv, j * columns, _product("BKGRC,BKGRH->BKCH", p, do_BKGRH)))

        first = jnp.zeros(q_BKGRH.shape, jnp.float32), *carry
        dq, *carry = _loop(keys, first, k_BKSH, number, sizes)
        return tuple(carry), dq

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k_BKSH, v_BKSH))
    xs = (*_numbered(q_BKGTH, rows),
          *(_numbered(x, rows)[1] for x in (of_out.astype(dtype), lse, delta_BKGT)))
    (dk, dv), dq = jax.lax.scan(queries, zeros, xs)
    return _joined(dq).astype(dtype), dk.astype(dtype), dv.astype(dtype), None


_attention.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _known(q_BKGTH, k_BKSH, v_BKSH, valid_BS, lse_BKGT, sizes) -> jax.Array:
    """The log-sum-exp, as given; its gradient is that of `_attention`. Values have no channels."""
    return lse_BKGT


def _known_forward(q_BKGTH, k_BKSH, v_BKSH, valid_BS, lse_BKGT, sizes):
    out = jnp.zeros((*q_BKGTH.shape[:-1], 0), jnp.float32)
    return lse_BKGT, (q_BKGTH, k_BKSH, v_BKSH, valid_BS, out, lse_BKGT)


def _known_backward(sizes, residuals, of_lse):
    return *_backward(sizes, residuals, (residuals[4], of_lse)), None


_known.defvjp(_known_forward, _known_backward)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _chunk(k_BKSH, v_BKSH, valid_BS, i, j, sizes):
    """Chunk j of keys and values, and which of them chunk i of the queries sees, bool [B, R, C]."""
    offset, rows, columns = sizes
    k_BKCH, v_BKCH = (jax.lax.dynamic_slice_in_dim(x, j * columns, columns, axis=2)
                      for x in (k_BKSH, v_BKSH))
    seen = jax.lax.dynamic_slice_in_dim(valid_BS, j * columns, columns, axis=1)[:, None]
    if offset is not None:
        query_R, key_C = i * rows + jnp.arange(rows), j * columns + jnp.arange(columns)
        seen = seen & (key_C[None] <= query_R[:, None] + offset)[None]
    return k_BKCH, v_BKCH, seen


def _loop(keys, first, k_BKSH, i, sizes):
    """Carries `first` through keys(j, carry) for all chunks j of keys that chunk i of the queries
    sees any of."""
    offset, rows, columns = sizes

    def step(j, carry):
        if offset is None:
            return keys(j, carry)
        last = (i + 1) * rows - 1 + offset
        return jax.lax.cond(j * columns <= last, lambda: keys(j, carry), lambda: carry)

    return jax.lax.fori_loop(0, k_BKSH.shape[2] // columns, step, first)


def _numbered(x: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """The numbers of the chunks of queries, and the chunks [I, B, K, G, R, ...]."""
    x = x.reshape(*x.shape[:3], x.shape[3] // rows, rows, *x.shape[4:])
    return jnp.arange(x.shape[3]), jnp.moveaxis(x, 3, 0)


def _joined(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], x.shape[3] * x.shape[4], *x.shape[5:])


def _add(x_BKSH: jax.Array, start, part_BKCH: jax.Array) -> jax.Array:
    size = part_BKCH.shape[2]
    old = jax.lax.dynamic_slice_in_dim(x_BKSH, start, size, axis=2)
    return jax.lax.dynamic_update_slice_in_dim(x_BKSH, old + part_BKCH, start, axis=2)


def _size(length: int) -> int:
    """The size of a chunk: as few chunks as possible, all of one size, with the least padding."""
    return -(-length // -(-length // (CPU_CHUNK if platform() == "cpu" else CHUNK)))


def _padded(x: jax.Array, size: int, axis: int) -> jax.Array:
    """x with zeros behind it along an axis, up to whole chunks."""
    more = [(0, 0)] * x.ndim
    more[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, more)
