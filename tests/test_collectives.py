"""Collectives and FLOPs, read from programs."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.memory import lm2
from lm2_jax.report.collectives import Collectives, by_kind, describe, find
from lm2_jax.report.flops import matrix_flops, of_traced

# What the TPU compiler writes, cut short: a gather spread over two fusions of the inner loop, one
# that only starts in the outer loop, a reduction of a tuple at the end.
HLO = """HloModule jit_step, is_scheduled=true

%piece.1 (p.1: bf16[1,128,64]) -> bf16[1,2048,64] {
  ROOT %all-gather.1 = bf16[1,2048,64]{2,1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=7, metadata={op_name="jit(step)/while/body/LanguageModel/memory_blocks/mlp/up_proj/convert_element_type"}
}

%piece.2 (p.2: bf16[1,128,64]) -> bf16[1,2048,64] {
  ROOT %all-gather.2 = bf16[1,2048,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), channel_id=7, metadata={op_name="jit(step)/while/body/LanguageModel/memory_blocks/mlp/up_proj/convert_element_type"}
}

%inner (i: (s32[], bf16[1,128,64])) -> (s32[], bf16[1,128,64]) {
  %fusion.1 = bf16[1,2048,64]{2,1,0} fusion(%x), kind=kCustom, calls=%piece.1
  %fusion.2 = bf16[1,2048,64]{2,1,0} fusion(%x), kind=kCustom, calls=%piece.2
  ROOT %t.1 = (s32[], bf16[1,128,64]) tuple(%a, %b)
}

%inner_condition (j: (s32[], bf16[1,128,64])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(16)
  %index = s32[]{:T(128)} get-tuple-element(%j), index=0
  ROOT %lt = pred[]{:T(512)} compare(%index, %constant.9), direction=LT
}

%outer (o: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[], bf16[1,128,64]) while(%t), condition=%inner_condition, body=%inner
  %all-gather-start.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), channel_id=8, metadata={op_name="jit(step)/transpose(jvp())/while/body/mlp_norm/reduce_sum"}
  %done = f32[8]{0} all-gather-done(%all-gather-start.1)
  ROOT %t.2 = (s32[], f32[8]) tuple(%a, %b)
}

%outer_condition (k: (s32[], f32[8])) -> pred[] {
  ROOT %lt.2 = pred[] compare(%q, %r), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[] {
  %while.2 = (s32[], f32[8]) while(%t), condition=%outer_condition, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %all-reduce = (f32[], /*index=1*/s32[4]{0}) all-reduce(%u, %v), channel_id=9, to_apply=%sum
}
"""  # noqa: E501


def test_collectives_are_counted_as_often_as_they_run():
    rows = find(HLO)
    assert rows == [Collectives("all-gather", 2048 * 64 * 2, 1, 48),
                    Collectives("all-gather", 32, 1, 3), Collectives("all-reduce", 20, 1, 1)]
    assert by_kind(rows) == {
        "all-gather": dict(in_program=2, per_run=51, bytes_per_run=48 * 2048 * 64 * 2 + 96),
        "all-reduce": dict(in_program=1, per_run=1, bytes_per_run=20)}


def test_a_reader_sees_what_is_exchanged_for_what():
    assert describe(HLO) == [
        "backward mlp_norm/reduce_sum: all-gather f32[8], 3 a run",
        "mlp/up_proj/convert_element_type: all-gather bf16[1,2048,64], 48 a run",
        "step: all-reduce f32[] s32[4], 1 a run"]


def test_of_a_real_program():
    mesh = partition.make_mesh({"fsdp": 8})
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=partition.named(mesh, "embed", None))
    w = jax.ShapeDtypeStruct((32, 32), jnp.float32, sharding=partition.named(mesh, "embed", None))

    def steps(x, w):
        def body(x, _):
            whole = jax.lax.with_sharding_constraint(jnp.tanh(w * x[0, 0]), PartitionSpec())
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(body, x, length=5)[0]

    with partition.use(mesh):
        traced = jax.jit(steps).trace(x, w)
        rows = find(traced.lower().compile().as_text())
    assert ("all-gather", 32 * 32 * 4, 5) in [(row.kind, row.bytes, row.per_run) for row in rows]
    assert matrix_flops(traced.jaxpr) == 5 * 2 * 64 * 32 * 32


@pytest.mark.parametrize("wrap,times", [(lambda f: f, 3), (jax.checkpoint, 4)])
def test_flops_count_what_is_computed_again(wrap, times):
    """Forward, two products backward; and the forward one again."""
    w = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)

    def loss(x, w):
        return jnp.sum(wrap(lambda x, w: jnp.tanh(x @ w))(x, w))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, w)
    assert matrix_flops(traced.jaxpr) == times * 2 * 8 * 4 * 4


@pytest.mark.parametrize("changes", [
    {}, {"tied_addressing": False}, {"write": "paper"}, {"write": "null"},
    {"coupled_gates": False}, {"gates_see_slot": False},
    {"coupled_gates": False, "gates_see_slot": False}])
def test_flops_of_the_memory_are_those_of_its_products(changes):
    """With tied addressing, read and write share the keys of the slots."""
    B, T, D, M = 2, 6, 16, 8
    config = ModelConfig(vocab_size=19, embed_dim=D, num_layers=1, segment_length=T,
                         memory=MemoryConfig(num_slots=M, num_heads=4, num_layers=1, **changes))

    def run(memory, x_BTD, bank_BMD, valid_BT):
        added_BTD, state = memory.mix(x_BTD, bank_BMD, valid_BT)
        return added_BTD, memory.write(x_BTD, state, valid_BT)

    layer = lm2.LM2Memory(config)
    own = (jnp.zeros((B, T, D)), jnp.zeros((B, M, D)), jnp.ones((B, T), bool))
    variables = jax.eval_shape(partial(layer.init, method=run), jax.random.key(0), *own)
    traced = jax.jit(partial(layer.apply, method=run)).trace(variables, *own)
    assert of_traced(traced) == B * T * lm2.flops(config)
