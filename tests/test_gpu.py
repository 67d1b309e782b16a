"""What must be seen on a GPU: `pytest -m gpu` there; skipped where there is none.

`LM2_TEST_KERNEL=chunked pytest -n 0 tests/test_gpu.py` runs the same tests on a CPU with another
attention in place of cuDNN's, which shows that their code works.
"""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import kill_train
import numpy as np
import packing_cases
import pytest
import runs
import training

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model import attention, kernels
from lm2_jax.model.kernels import Mask
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state
from lm2_jax.types import Window

pytestmark = pytest.mark.gpu

MODEL = ModelConfig(vocab_size=24, embed_dim=64, num_layers=2, num_heads=4, num_kv_heads=2,
                    mlp_dim=96, segment_length=training.T, dtype="bfloat16",
                    memory=MemoryConfig(num_slots=8, num_heads=2, num_layers=2))
BF16 = 2.0 ** -7  # distance of two neighbours, relative to the number


@pytest.fixture(scope="module")
def kernel():
    """The attention under test: cuDNN's on a GPU, or what LM2_TEST_KERNEL says."""
    chosen = os.environ.get("LM2_TEST_KERNEL")
    if not chosen and jax.default_backend() != "gpu":
        pytest.skip("no GPU here")
    return chosen or "cudnn"


def check(kernel, q, k, v, g, mask, counts, of_lse=None):
    """The kernel's output and gradients in bfloat16 are near XLA's in float32.

    Args:
      g: what the output is weighted with.
      mask: a `Mask`.
      counts: bool [B, T], queries whose output has a meaning.
      of_lse: what the log-sum-exp is weighted with, float32 [B, N, T]; None does not ask for it.
    """
    counts = jnp.asarray(counts)

    def value(implementation, dtype):
        def weighted(q, k, v):
            out = kernels.attention(q, k, v, mask, implementation, out_dtype="float32",
                                    log_sum_exp=of_lse is not None)
            out, lse = out if of_lse is not None else (out, jnp.zeros(()))
            out = jnp.where(counts[..., None, None], out, 0)
            total = jnp.sum(out * g.astype(jnp.float32))
            if of_lse is not None:
                lse = jnp.where(counts[:, None], lse, 0)
                total += jnp.sum(lse * of_lse)
            return total, (out, lse)

        (_, results), gradients = jax.jit(jax.value_and_grad(
            weighted, argnums=(0, 1, 2), has_aux=True))(*(x.astype(dtype) for x in (q, k, v)))
        return [*results, *gradients]

    for ours, exact in zip(value(kernel, jnp.bfloat16), value("xla", jnp.float32), strict=True):
        ours, exact = np.asarray(ours, np.float32), np.asarray(exact)
        assert np.isfinite(ours).all()
        assert np.abs(ours - exact).max() <= 4 * BF16 * np.abs(exact).max()


@pytest.mark.parametrize("rows", ["whole", "padded", "ragged"])
@pytest.mark.parametrize("T,W", [(128, 0), (128, 128), (100, 37), (24, 0)])
@pytest.mark.parametrize("heads", [(4, 4, 64), (8, 2, 128)])
def test_attention_and_its_gradient_are_those_of_xla(kernel, rows, T, W, heads):
    B, (N, K, H) = 3, heads
    rng = np.random.default_rng(T + W)
    q, k, v, g = (jnp.asarray(rng.standard_normal((B, length, count, H)), jnp.bfloat16)
                  for length, count in ((T, N), (W + T, K), (W + T, K), (T, N)))
    lengths = {"whole": [T, T, T], "padded": [T, T // 2, 1], "ragged": [T, T, T]}[rows]
    valid = np.arange(T) < np.array(lengths)[:, None]
    if rows == "ragged":  # holes, as where samples of several lengths are packed
        valid &= rng.random((B, T)) < 0.7
    # As after a reset, after half a window and after a whole one; with holes too.
    of_window = np.arange(W) >= np.array([W, W // 2, 0])[:, None]
    if rows == "ragged":
        of_window &= rng.random((B, W)) < 0.8
    window = Window(None, None, jnp.asarray(of_window)) if W else None
    check(kernel, q, k, v, g, attention.causal_mask(window, jnp.asarray(valid)), valid)


@pytest.mark.parametrize("T,M,N,H", [(128, 128, 4, 64), (100, 37, 2, 128), (256, 512, 2, 256)])
def test_reads_and_writes_of_a_memory_are_those_of_xla(kernel, T, M, N, H):
    """The read sees all slots, the write valid tokens; a row has none."""
    B, rng = 3, np.random.default_rng(M)
    tokens, slots, slot_values, token_values, of_read, of_write = (
        jnp.asarray(rng.standard_normal((B, length, N, H)), jnp.bfloat16)
        for length in (T, M, M, T, T, M))
    check(kernel, tokens, slots, slot_values, of_read, Mask(), np.ones((B, T), bool))
    valid = (np.arange(T) < np.array([T, T // 3, 0])[:, None]) & (rng.random((B, T)) < 0.9)
    of_lse = jnp.asarray(rng.standard_normal((B, N, M)), jnp.float32)
    check(kernel, slots, tokens, token_values, of_write, Mask(jnp.asarray(valid)),
          np.broadcast_to(valid.any(axis=1)[:, None], (B, M)), of_lse)


def test_auto_takes_the_kernel_of_the_gpu(kernel):
    """Lowered, a segment's attention, read and write are calls of cuDNN, without a bias."""
    if kernel != "cudnn":
        pytest.skip("no GPU here")
    model = LanguageModel(dataclasses.replace(MODEL, segment_length=16, attention_window=16))
    state = init_state(model.config, batch_size=2)
    tokens = jnp.zeros((2, 16), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, state)
    text = jax.jit(model.apply).lower(variables, tokens, state).as_text()
    assert text.count("cudnn$fmha") >= 3 and "fmhaScaleBias" not in text


@pytest.mark.parametrize("window", [0, 16])
def test_a_model_reads_padded_and_packed_segments_as_with_xla(kernel, window):
    config = dataclasses.replace(MODEL, segment_length=16, attention_window=window)
    rng = np.random.default_rng(window)
    tokens = jnp.asarray(rng.integers(0, 24, (4, 64), np.int32))
    valid = jnp.asarray(np.arange(64) < np.array([64, 50, 17, 64])[:, None])
    reset = jnp.asarray(rng.random((4, 4)) < 0.4).at[:, 0].set(True)

    def logits(**changes):
        model = LanguageModel(dataclasses.replace(config, **changes))
        state = init_state(model.config, batch_size=4)
        variables = jax.jit(model.init)(jax.random.key(1), tokens[:, :16], state)
        read = jax.jit(lambda variables: apply_segments(model, variables, tokens, state,
                                                        valid_BL=valid, reset_BS=reset).logits)
        return np.asarray(read(variables), np.float32)[np.asarray(valid)]

    exact = logits(dtype="float32")
    ours = logits(attention_implementation=kernel)
    xla = logits(attention_implementation="xla")
    assert np.isfinite(ours).all()
    assert np.abs(ours - exact).max() <= 2 * np.abs(xla - exact).max() + BF16


def test_documents_of_a_row_do_not_see_each_other(kernel):
    config = dataclasses.replace(MODEL, attention_window=32, attention_implementation=kernel)
    model, state = LanguageModel(config), init_state(config, batch_size=1)
    tokens = jnp.ones((1, config.segment_length), jnp.int32)
    packing_cases.check_isolation(config, jax.jit(model.init)(jax.random.key(1), tokens, state))


def test_three_steps_in_bfloat16_are_near_those_in_float32(kernel):
    low = training.train(model=dataclasses.replace(MODEL, attention_implementation=kernel))
    high = training.train(model=dataclasses.replace(MODEL, dtype="float32"))
    for ours, exact in zip(low.metrics, high.metrics, strict=True):
        np.testing.assert_allclose(ours["loss"], exact["loss"], rtol=0.01)
        np.testing.assert_allclose(ours["grad_norm"], exact["grad_norm"], rtol=0.05)
    moved = [np.concatenate([(a - b).ravel() for a, b in zip(
        jax.tree.leaves(run.after), jax.tree.leaves(run.before), strict=True)])
        for run in (low, high)]
    cosine = moved[0] @ moved[1] / np.prod([np.linalg.norm(x) for x in moved])
    assert cosine > 0.95


def test_a_run_saves_resumes_and_evaluates(kernel, tmp_path):
    """As users do, in processes of their own; checkpoints, and contexts read as a stream."""
    options = ("--config.model.dtype=bfloat16",
               f"--config.model.attention_implementation={kernel}", "--config.train.num_steps=12",
               "--config.train.eval_every_steps=0", "--config.train.advance_accuracy=0",
               "--config.data.curriculum=((0,1),)", "--config.eval.lengths=96,384")
    workdir, environment = tmp_path / "run", {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    run = runs.lm2("train", workdir, *options, environment=environment)
    assert run.returncode == 0, run.stderr
    first = kill_train.lines(workdir)
    rows = json.loads((workdir / "eval" / "results.json").read_text())
    shutil.rmtree(workdir / "checkpoints" / "12")
    run = runs.lm2("train", workdir, *options, environment=environment)
    assert run.returncode == 0 and "after step 8" in run.stdout, run.stdout + run.stderr
    again = kill_train.lines(workdir)
    assert [line["step"] for line in again] == list(range(1, 13))
    np.testing.assert_allclose([line["loss"] for line in again],
                               [line["loss"] for line in first], rtol=0.01)
    run = runs.lm2("eval", workdir, *options, environment=environment)
    assert run.returncode == 0, run.stderr
    again = json.loads((workdir / "eval" / "results.json").read_text())
    assert [row["length"] for row in again] == [row["length"] for row in rows]
