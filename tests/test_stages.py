"""Blocks over the stages of a mesh: 2 stages x 2 fsdp x 2 tensor give what one device does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from jax.sharding import NamedSharding, PartitionSpec

from lm2_jax import partition
from lm2_jax.config import Config, MemoryConfig, MeshConfig, ModelConfig
from lm2_jax.model import handing
from lm2_jax.model.lm import LanguageModel, init_state
from lm2_jax.model.params import abstract_params
from lm2_jax.model.schedule import apply_segments, wavefront_groups
from lm2_jax.report import collectives, pipeline
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.loss import loss_sums
from lm2_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MODEL = ModelConfig(vocab_size=24, embed_dim=16, num_layers=4, num_heads=4, num_kv_heads=2,
                    mlp_dim=24, segment_length=4, attention_window=3, remat="full",
                    memory=MemoryConfig(num_slots=3, num_heads=2, num_layers=2))
SHAPE = {"stage": 2, "fsdp": 2, "tensor": 2, "data": 1}


@pytest.fixture(scope="module")
def mesh():
    return partition.make_mesh(SHAPE)


@pytest.fixture(scope="module")
def state(mesh):
    return train_state.create(LanguageModel(MODEL), optimizer.make(training.CONFIG), 0, mesh)


def check_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=atol,
                                                         atol=atol), a, b)


def test_a_mesh_with_stages(mesh):
    assert mesh.axis_names == ("stage", "data", "fsdp", "tensor")
    assert mesh.devices.shape == (2, 1, 2, 2)
    assert partition.rows_per_step(mesh) == 2
    with jax.set_mesh(mesh):
        assert partition.num_stages() == 2 and partition.row_ways() == 2
        assert wavefront_groups(MODEL, 1, 8) == (2, 2)
    assert partition.num_stages() == 1 and partition.row_ways() == 1
    assert partition.mesh_sizes({"stage": 2, "data": -1, "fsdp": -1, "tensor": -1}, 8, (4,), (4,)
                                ) == {"stage": 2, "data": 1, "fsdp": 4, "tensor": 1}


def test_each_stage_has_its_blocks(mesh, state):
    params = state[0].params["params"]
    for stack, module, name, spec in (
            ("blocks", "mlp", "up_proj", ("stage", "fsdp", "tensor")),
            ("memory_blocks", "memory", "q_proj", ("stage", "fsdp", "tensor", None))):
        leaf = params[stack][module][name]["kernel"]
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*spec)), leaf.ndim)
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    embedding = params["embedding"]
    assert embedding.addressable_shards[0].data.size * 8 == embedding.size


def test_logits_and_state_are_those_of_one_device(mesh, state):
    rng, params = np.random.default_rng(0), state[0].params
    tokens_BL = rng.integers(0, 24, (4, 18), dtype=np.int32)
    valid_BL = np.arange(18)[None] < np.array([18, 13, 18, 6])[:, None]
    reset_BS = rng.random((4, 5)) < 0.3

    def run(params, schedule):
        return apply_segments(LanguageModel(MODEL), params, tokens_BL, init_state(MODEL, 4),
                              valid_BL, reset_BS, schedule=schedule)

    wanted = jax.jit(run, static_argnums=1)(jax.device_get(params), "sequential")
    with jax.set_mesh(mesh):
        for schedule in ("auto", "sequential"):
            out = jax.jit(run, static_argnums=1)(params, schedule)
            check_close(out.logits[valid_BL], wanted.logits[valid_BL])
            check_close(out.state, wanted.state)
            memory = out.state.memory
            assert memory.addressable_shards[0].data.size * 8 == memory.size


@pytest.fixture(scope="module")
def program(mesh, state):
    with jax.set_mesh(mesh):
        step = make_train_step(LanguageModel(MODEL), optimizer.make(training.CONFIG),
                               dataclasses.replace(training.CONFIG, remat_segments=True), mesh,
                               state[1])
        return step.lower(state[0], training.batch(0)).compile()


def test_gradients_are_those_of_one_device(mesh, state):
    def loss(params, schedule):
        model = LanguageModel(dataclasses.replace(MODEL, schedule=schedule))
        return loss_sums(model, params, training.batch(0), jax.random.key(0), bptt_segments=2,
                         remat_segments=True, chunk_tokens=2, deterministic=True).loss

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    wanted = run(jax.device_get(state[0].params), "sequential")
    with jax.set_mesh(mesh):
        check_close(run(state[0].params, "wavefront"), wanted)


def test_neighbours_exchange_what_the_arithmetic_says(mesh, program):
    """And no stage gathers the parameters of another."""
    wanted = pipeline.expected(MODEL, mesh, training.S, training.B)
    found = pipeline.Pipeline(**pipeline.with_found(dataclasses.asdict(wanted),
                                                    program.as_text()))
    assert wanted.ticks == training.S + 2 and wanted.bubble == pytest.approx(2 / 5)
    assert wanted.signal == training.B // 2 * 4 * MODEL.embed_dim * 4
    assert wanted.exchanges == 5 * 2 * 3
    assert found.found_exchanges == wanted.exchanges
    assert wanted.exchanges * wanted.signal / 2 <= found.found_bytes  # some are split over tensor
    assert found.found_bytes <= wanted.exchanges * wanted.signal
    text = " ".join(pipeline.lines(found))
    assert "3 segments take 5 ticks, 1 times; bubble 40.0 %" in text
    assert "30 of 0.00 MiB expected" in text and "the program has 30, " in text
    mlp = 4 * MODEL.mlp_dim * MODEL.embed_dim * 2 // 2
    assert all(row.bytes <= mlp for row in collectives.find(program.as_text())
               if row.kind == "all-gather")


def test_four_stages_exchange_once_forward_and_once_backward():
    """What leaves the last one takes no exchange, but a sum over the stages."""
    mesh = partition.make_mesh({"stage": 4, "data": 2})
    rng = np.random.default_rng(0)
    read_G, entering, seen_G, left = (rng.normal(size=shape).astype(np.float32) for shape in (
        (4, 6, 8), (6, 8), (4, 6, 8), (6, 8)))

    def out(read_G, entering):
        read_G = partition.constrain(read_G, "layers", None, None)
        shifted_G = partition.constrain(handing.shifted(read_G, entering), "layers", None, None)
        return jnp.sum(jnp.tanh(shifted_G) * seen_G) + jnp.sum(handing.last(shifted_G) ** 2 * left)

    def wanted(read_G, entering):
        shifted_G = jnp.concatenate([entering[None], read_G[:-1]])
        return jnp.sum(jnp.tanh(shifted_G) * seen_G) + jnp.sum(shifted_G[-1] ** 2 * left)

    with jax.set_mesh(mesh):
        run = jax.jit(jax.value_and_grad(out, argnums=(0, 1)), in_shardings=(
            NamedSharding(mesh, PartitionSpec("stage")), NamedSharding(mesh, PartitionSpec())))
        check_close(run(read_G, entering), jax.value_and_grad(wanted, (0, 1))(read_G, entering))
        exchanged = [one for one in collectives.each(run.lower(
            read_G, entering).compile().as_text()) if one.kind == "collective-permute"]
    assert [one.bytes for one in exchanged] == [6 * 8 * 4] * 2


@pytest.mark.slow
def test_a_stage_keeps_what_the_arithmetic_says_for_the_backward_pass():
    """Of twice the segments, the temporaries of a device grow by what their ticks carry."""
    mesh = partition.make_mesh({"stage": 2, "data": 1, "fsdp": 4})
    model = dataclasses.replace(MODEL, attention_window=0, embed_dim=32, memory=MemoryConfig(
        num_slots=64, num_heads=2, num_layers=2))
    sizes, kept = [], []
    for S in (8, 16):
        batch = jax.tree.map(lambda a, S=S: jnp.zeros((8, S * (a.shape[1] // training.S)), a.dtype),
                             training.batch(0))

        def loss(params, batch=batch):
            return loss_sums(LanguageModel(model), params, batch, jax.random.key(0),
                             bptt_segments=0, remat_segments=True, chunk_tokens=2,
                             deterministic=True).loss

        with jax.set_mesh(mesh):
            params = abstract_params(LanguageModel(model), mesh)
            memory = jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis()
        sizes.append(memory.temp_size_in_bytes)
        kept.append(pipeline.expected(model, mesh, S, 8).kept)
    assert (sizes[1] - sizes[0]) / (kept[1] - kept[0]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("changes,stages,wanted", [
    ({"num_layers": 3}, 2, "a divisor of 1, the number of blocks with"),
    ({"schedule": "sequential"}, 2, "1 for a model that is read sequentially"),
    ({"memory": MemoryConfig(kind="rmt", num_layers=4)}, 2, "and rmt"),
    ({}, 0, "at least 1")])
def test_stages_that_do_not_fit_are_refused(changes, stages, wanted):
    with pytest.raises(ValueError, match="mesh.stage is") as caught:
        Config(model=dataclasses.replace(MODEL, **changes), mesh=MeshConfig(stage=stages))
    assert wanted in str(caught.value) and "\n" not in str(caught.value)
