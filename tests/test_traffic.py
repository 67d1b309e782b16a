"""FLOPs and bytes of compiled programs, against XLA's own count and with loops counted."""

import jax
import jax.numpy as jnp
import pytest

from lm2_jax import partition
from lm2_jax.config import files
from lm2_jax.report import flops, traffic
from lm2_jax.report.programs import training_step
from lm2_jax.runtime import meshes

MODEL = {"model.vocab_size": "256", "model.embed_dim": "64", "model.mlp_dim": "192",
         "model.segment_length": "64", "model.num_layers": "1", "model.memory.num_layers": "1",
         "train.remat_segments": "false"}


def step(**changes):
    config = files.load_config("tiny", MODEL | changes)
    mesh = meshes.for_training(config, jax.devices()[:1], evaluates=False)
    with partition.use(mesh):
        traced = training_step(config.model, config.train, mesh, rows=2, segments=2)
        return traced, traced.lower().compile()


@pytest.mark.parametrize("changes", [
    {}, pytest.param({"model.memory.num_layers": "0", "model.num_layers": "2"},
                     marks=pytest.mark.slow)])
def test_an_unrolled_step_has_the_flops_and_bytes_of_xla(changes):
    traced, program = step(**changes)
    found, own = traffic.of_program(program.as_text()), program.cost_analysis()
    matrix = flops.of_traced(traced)
    assert matrix == pytest.approx(found.flops, rel=0.002)
    # XLA's count has the elementwise operations too.
    assert 0.93 * own["flops"] < matrix < own["flops"]
    assert found.bytes == pytest.approx(own["bytes accessed"], rel=0.02)


def test_a_loop_has_the_flops_and_bytes_of_its_iterations():
    """A chain of products, in a loop and without one."""
    x, w = jnp.ones((200, 100)), jnp.ones((40, 100, 100))

    def program(unroll):
        def chain(x, w):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]

        return jax.jit(chain).trace(x, w).lower().compile()

    flat, loop = program(40), program(1)
    assert " while(" not in flat.as_text() and " while(" in loop.as_text()
    ahead, found = traffic.of_program(flat.as_text()), traffic.of_program(loop.as_text())
    assert found.flops == ahead.flops == 40 * 2 * 200 * 100 * 100
    assert ahead.bytes == pytest.approx(flat.cost_analysis()["bytes accessed"], rel=0.02)
    assert found.bytes == pytest.approx(ahead.bytes, rel=0.3)
    assert loop.cost_analysis()["flops"] < found.flops / 20  # XLA counts one iteration


def test_parts_of_large_arrays_count_as_parts():
    """A scan reads a slice of its input and writes a slice of its output in each iteration; before
    it, the output is filled with zeros."""
    x = jax.ShapeDtypeStruct((50, 100, 100), jnp.float32)
    program = jax.jit(lambda x: jax.lax.scan(
        lambda carry, a: (carry + 1, jnp.sin(a)), 0, x)).trace(x).lower().compile()
    found = traffic.of_program(program.as_text())
    assert found.bytes == pytest.approx(3 * 4 * 50 * 100 * 100, rel=0.1)


# As the TPU compiler writes: a loop that counts two steps an iteration and without an annotation,
# products as convolutions, on-chip memory as S(1), and a product of matrices with a batch of 8.
TPU = """HloModule jit_step, is_scheduled=true

%part (p.0: bf16[16,64,32], p.1: s32[]) -> bf16[64,32] {
  %p.0 = bf16[16,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %slice.1 = bf16[1,64,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p.0, %p.1, %p.1, %p.1), dynamic_slice_sizes={1,64,32}
  ROOT %bitcast.1 = bf16[64,32]{1,0:T(8,128)(2,1)} bitcast(%slice.1)
}

%body (b: (u32[], bf16[16,64,32])) -> (u32[], bf16[16,64,32]) {
  %b = (u32[]{:T(128)}, bf16[16,64,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%b), index=0
  %w = bf16[16,64,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%b), index=1
  %two = u32[]{:T(128)} constant(2)
  %own = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%part
  %x = bf16[48,64]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %y = bf16[48,32]{1,0:T(8,128)(2,1)} convolution(%x, %own), dim_labels=bf_io->bf
  %next = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (u32[]{:T(128)}, bf16[16,64,32]{2,1,0:T(8,128)(2,1)}) tuple(%next, %w)
}

%condition (c: (u32[], bf16[16,64,32])) -> pred[] {
  %c = (u32[]{:T(128)}, bf16[16,64,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%c), index=0
  %ten = u32[]{:T(128)} constant(10)
  ROOT %lt = pred[]{:T(512)} compare(%j, %ten), direction=LT
}

ENTRY %main (w: bf16[16,64,32], q: bf16[8,64,48], k: bf16[8,64,40]) -> bf16[8,48,40] {
  %w.1 = bf16[16,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %q = bf16[8,64,48]{2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[8,64,40]{2,1,0:T(8,128)(2,1)} parameter(2)
  %zero = u32[]{:T(128)} constant(0)
  %start = (u32[]{:T(128)}, bf16[16,64,32]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %w.1)
  %loop = (u32[]{:T(128)}, bf16[16,64,32]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %batched = bf16[8,48,40]{2,1,0:T(8,128)(2,1)} convolution(%q, %k), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0fb_0io->0bf
}
"""  # noqa: E501


def test_of_a_program_for_a_tpu():
    """Five iterations of a product, of which the result alone goes to the device's memory beside
    the slice; and eight products of [48, 64] and [64, 40]."""
    found = traffic.of_program(TPU)
    assert found.flops == 5 * 2 * 48 * 64 * 32 + 8 * 2 * 48 * 64 * 40
    bodies = 2 * (64 * 32 + 48 * 32) + 4 + 3 * 4  # the slice, the result, its index, the counter
    condition = 1 + 2 * 4
    batched = 2 * 8 * (64 * 48 + 64 * 40 + 48 * 40)
    assert found.bytes == 5 * (bodies + condition) + batched


# A slice of an array that a GPU copies while it computes something else.
ASYNCHRONOUS = """HloModule jit_step, is_scheduled=true

%part (p.1: s32[], p.0: bf16[16,64,32]) -> bf16[64,32] {
  %p.1 = s32[] parameter(0)
  %p.0 = bf16[16,64,32]{2,1,0} parameter(1)
  %slice.1 = bf16[1,64,32]{2,1,0} dynamic-slice(%p.0, %p.1, %p.1, %p.1), dynamic_slice_sizes={1,64,32}
  ROOT %bitcast.1 = bf16[64,32]{1,0} bitcast(%slice.1)
}

ENTRY %main (w: bf16[16,64,32], i: s32[]) -> bf16[64,32] {
  %w = bf16[16,64,32]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %start = ((s32[], bf16[16,64,32]{2,1,0}), bf16[64,32]{1,0}, u32[]) fusion-start(%i, %w), kind=kLoop, calls=%part
  ROOT %done = bf16[64,32]{1,0} fusion-done(%start)
}
"""  # noqa: E501


def test_a_copy_beside_other_work_counts_once():
    assert traffic.of_program(ASYNCHRONOUS).bytes == 2 * 2 * 64 * 32 + 4
