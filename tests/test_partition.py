"""Meshes, logical axes and constraints, on eight virtual devices."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state
from lm2_jax.training import state as train_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = ModelConfig(vocab_size=20, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2,
                     mlp_dim=24, segment_length=5, attention_window=3, tie_embeddings=False,
                     memory=MemoryConfig(num_slots=4, num_heads=2, num_layers=2))
ROWS = ("data", "fsdp")


@pytest.fixture(scope="module")
def mesh():
    return partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize("shape,sizes", [
    ({}, None), ({"data": -1}, (8, 1, 1)), ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2)),
    ({"data": 1, "fsdp": 4, "tensor": 2}, (1, 4, 2)), ({"data": 8, "tensor": -1}, (8, 1, 1)),
    ({"data": 3, "fsdp": -1}, None), ({"data": 2, "fsdp": 2}, None),
    ({"data": 16}, None), ({"data": -1, "fsdp": -1}, None),
])
def test_mesh_takes_all_devices_or_says_why_not(shape, sizes):
    if sizes is None:
        with pytest.raises(ValueError, match="does not fit 8 devices") as caught:
            partition.make_mesh(shape)
        assert "\n" not in str(caught.value)
        assert all(f"{axis}={size}" in str(caught.value) for axis, size in shape.items())
        return
    made = partition.make_mesh(shape)
    assert made.axis_names == ("data", "fsdp", "tensor")
    assert made.devices.shape == sizes
    assert set(made.devices.flat) == set(jax.devices())


def test_mesh_over_some_devices():
    made = partition.make_mesh({"data": -1, "tensor": 2}, jax.devices()[:4])
    assert made.devices.shape == (2, 1, 2)
    assert list(made.devices.flat) == jax.devices()[:4]


def test_rows_per_step(mesh):
    assert partition.rows_per_step(mesh) == 4
    assert partition.rows_per_step(partition.make_mesh({"tensor": 8})) == 1


def test_names_resolve_to_mesh_axes(mesh):
    wanted = PartitionSpec("fsdp", "tensor", None)
    assert partition.spec(("embed", "heads", "head_dim")) == wanted
    assert partition.named(mesh, "embed", "heads", None) == NamedSharding(mesh, wanted)


@pytest.mark.parametrize("inside", [False, True])
def test_constrain_refuses_what_does_not_fit(mesh, inside):
    x = jnp.zeros((4, 4))
    with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
        with pytest.raises(ValueError, match="unknown logical axis 'act_rows'; known: act_batch"):
            partition.constrain(x, "act_rows", None)
        for names in (("act_batch",), ("act_batch", None, None)):
            with pytest.raises(ValueError, match=rf"{len(names)} names .* shape \(4, 4\)"):
                partition.constrain(x, *names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_constrain_works_in_the_old_context(mesh):
    with mesh:
        y = jax.jit(lambda x: partition.constrain(2 * x, "act_batch", "act_mlp"))(jnp.ones((8, 4)))
    assert y.sharding.is_equivalent_to(partition.named(mesh, "act_batch", "act_mlp"), 2)


def other_mesh(*axes, types=AxisType.Auto):
    sizes = (2,) * (len(axes) - 1) + (8 >> (len(axes) - 1),)
    return Mesh(np.array(jax.devices()).reshape(sizes), axes, axis_types=(types,) * len(axes))


OTHER_MESHES = [
    ("data",), ("batch", "model"), ("data", "model"), ("stage", "data", "fsdp", "tensor")]


@pytest.mark.parametrize("axes", [
    pytest.param(axes, marks=() if len(axes) > 2 else pytest.mark.slow, id=" ".join(axes))
    for axes in OTHER_MESHES])
def test_the_model_runs_on_a_mesh_with_other_axes(axes, forward):
    wanted, run = forward
    for types in (AxisType.Auto, AxisType.Explicit):
        if axes == OTHER_MESHES[-1] and types == AxisType.Auto:
            devices = np.array(jax.devices()).reshape(1, 2, 2, 2)
            other = Mesh(devices, axes, axis_types=(types,) * 4)
        elif axes == OTHER_MESHES[-1]:
            continue
        else:
            other = other_mesh(*axes, types=types)
        with jax.set_mesh(other):
            check_close(run(), wanted)


@pytest.mark.slow
def test_the_model_runs_inside_shard_map_pmap_and_vmap(mesh, forward):
    wanted, run = forward
    P = PartitionSpec

    def rows(tokens_BL):
        return run(tokens_BL)

    inside = {
        "all axes manual": jax.shard_map(rows, mesh=mesh, in_specs=P(ROWS), out_specs=P(ROWS),
                                         check_vma=False),
        "one axis manual": jax.shard_map(rows, mesh=mesh, in_specs=P("data"), out_specs=P("data"),
                                         axis_names={"data"}, check_vma=False),
    }
    for name, function in inside.items():
        check_close(jax.jit(function)(TOKENS), wanted, name)
    eight = TOKENS.reshape(8, 1, -1)
    for name, function in {"pmap": jax.pmap(rows, axis_name="data"),
                           "vmap": jax.vmap(rows, axis_name="data")}.items():
        check_close(function(eight).reshape(wanted.shape), wanted, name)
    with jax.set_mesh(mesh):
        check_close(jax.jit(jax.vmap(rows, axis_name="data"))(eight).reshape(wanted.shape), wanted)


TOKENS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (8, 12), dtype=np.int32)


@pytest.fixture(scope="module")
def forward():
    """(logits, the function that gave them) of two segments."""
    variables = reference.params(CONFIG)

    def run(tokens_BL=TOKENS):
        tokens_BL = jnp.asarray(tokens_BL)
        return apply_segments(LanguageModel(CONFIG), variables, tokens_BL,
                              init_state(CONFIG, len(tokens_BL))).logits

    return np.asarray(run()), run


def check_close(actual, wanted, name=""):
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=0, atol=1e-5, err_msg=name)


def test_what_was_traced_outside_a_mesh_is_traced_anew_inside(mesh):
    constrained = jax.jit(lambda x: partition.constrain(2 * x, "act_batch", "act_mlp"))
    alone = constrained(jnp.ones((8, 4)))
    with jax.set_mesh(mesh):
        assert constrained(jnp.ones((8, 4))).sharding.spec == partition.spec(
            ("act_batch", "act_mlp"))
    assert alone.sharding.num_devices == 1


def test_a_parameter_needs_a_name_for_each_axis(mesh):
    short = nn.LogicallyPartitioned(jnp.zeros((8, 4)), ("embed",))
    with pytest.raises(ValueError, match=r"1 names \('embed',\) for a parameter of shape \(8, 4\)"):
        partition.shardings({"kernel": short}, mesh)


def test_constrain_does_nothing_outside_a_mesh():
    x = jnp.zeros((8, 4))
    assert partition.constrain(x, "act_batch", "act_mlp") is x
    jaxpr = jax.make_jaxpr(lambda x: partition.constrain(x, "act_batch", "act_mlp"))(x)
    assert not jaxpr.eqns


@pytest.mark.parametrize("names,wanted", [
    (("act_batch", "act_mlp"), PartitionSpec(ROWS, "tensor")),
    (("act_len", "act_batch"), PartitionSpec(None, ROWS)),
    (("embed", None), PartitionSpec("fsdp", None)),
])
def test_constrain_in_a_mesh(mesh, names, wanted):
    x = jnp.arange(32.0).reshape(8, 4)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: partition.constrain(2 * x, *names))(x)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, wanted), 2)
    assert np.array_equal(y, 2 * x)


WANTED = {
    ("embedding",): PartitionSpec("tensor", "fsdp"),
    ("lm_head", "kernel"): PartitionSpec("fsdp", "tensor"),
    ("final_norm", "scale"): PartitionSpec(),
    ("blocks", "attention", "q_proj", "kernel"): PartitionSpec(None, "fsdp", "tensor"),
    ("blocks", "attention", "k_proj", "kernel"): PartitionSpec(None, "fsdp", "tensor"),
    ("blocks", "attention", "o_proj", "kernel"): PartitionSpec(None, "tensor", None, "fsdp"),
    ("blocks", "mlp", "up_proj", "kernel"): PartitionSpec(None, "fsdp", "tensor"),
    ("blocks", "mlp", "down_proj", "kernel"): PartitionSpec(None, "tensor", "fsdp"),
    ("memory_blocks", "memory", "q_proj", "kernel"): PartitionSpec(None, "fsdp", "tensor"),
    ("memory_blocks", "memory", "o_proj", "kernel"): PartitionSpec(None, "tensor", None, "fsdp"),
    ("memory_blocks", "memory", "forget_gate", "kernel"): PartitionSpec(None, "fsdp", "tensor"),
    ("memory_blocks", "memory", "forget_gate", "bias"): PartitionSpec(),
    ("memory_blocks", "memory", "route_bias"): PartitionSpec(None, "tensor"),
    ("memory_blocks", "memory", "write_norm", "scale"): PartitionSpec(),
}


@pytest.fixture(scope="module")
def created(mesh):
    return train_state.create(LanguageModel(CONFIG), optax.adam(1e-3), 0, mesh)


def at(tree, keys):
    for key in keys:
        tree = tree[key]
    return tree


@pytest.mark.parametrize("keys", WANTED, ids="/".join)
def test_parameters_are_born_sharded(mesh, created, keys):
    """And so are the optimizer's moments; each device holds its part and no more."""
    state, _ = created
    moments = state.opt_state[0]
    for tree in (state.params, moments.mu, moments.nu):
        leaf = at(tree["params"], keys)
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, WANTED[keys]), leaf.ndim)
        parts = 2 ** sum(axis is not None for axis in WANTED[keys])
        assert all(shard.data.size == leaf.size // parts for shard in leaf.addressable_shards)


def test_every_matrix_is_split(created):
    state, shardings = created
    assert jax.tree.structure(state) == jax.tree.structure(shardings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        parts = {"scale": 1, "bias": 1, "route_bias": 2}.get(path[-1].key, 4)
        assert len(leaf.addressable_shards) == 8
        assert leaf.addressable_shards[0].data.size * parts == leaf.size


def test_forward_on_a_mesh_equals_the_unsharded_one(mesh, created):
    params = created[0].params
    rng = np.random.default_rng(0)
    tokens_BL = rng.integers(0, CONFIG.vocab_size, (8, 13), dtype=np.int32)
    valid_BL = np.arange(13)[None, :] < rng.integers(4, 14, (8, 1))
    model = LanguageModel(CONFIG)

    def forward(params, tokens_BL, valid_BL):
        return apply_segments(model, params, tokens_BL, init_state(CONFIG, 8), valid_BL)

    plain = jax.jit(forward)(jax.tree.map(np.asarray, params), tokens_BL, valid_BL)
    rows = partition.named(mesh, "act_batch", "act_len")
    with jax.set_mesh(mesh):
        out = jax.jit(forward)(params, *jax.device_put((tokens_BL, valid_BL), rows))
    np.testing.assert_allclose(np.asarray(out.logits)[valid_BL],
                               np.asarray(plain.logits)[valid_BL], rtol=0, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        np.asarray(a), np.asarray(b), rtol=0, atol=1e-5), out.state, plain.state)
    assert len(plain.logits.sharding.device_set) == 1
    window = out.state.window
    for leaf, parts in ((out.state.memory, [1, 4]), (window.key_QBWKH, [1, 4, 1, 2]),
                        (window.value_QBWKH, [1, 4, 1, 2]), (window.valid_BW, [4])):
        for axis, count in enumerate(parts):
            assert leaf.addressable_shards[0].data.shape[axis] * count == leaf.shape[axis]
    logits = NamedSharding(mesh, PartitionSpec(ROWS, None, "tensor"))
    assert out.logits.sharding.is_equivalent_to(logits, 3)
