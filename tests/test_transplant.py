"""A new run that starts from the weights of another model."""

import functools

import jax
import numpy as np
import pytest
import reference

from lm2_jax.checkpoint import transplant
from lm2_jax.config import MemoryConfig, ModelConfig

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LAYERS = 4


@functools.cache
def variables(seed, memory_layers, kind="lm2", **sizes):
    config = ModelConfig(**dict(vocab_size=11, embed_dim=8, num_layers=LAYERS, num_heads=2,
                                num_kv_heads=2, mlp_dim=12, segment_length=4) | sizes,
                         memory=MemoryConfig(kind=kind, num_slots=3, num_heads=2, key_dim=4,
                                             num_layers=memory_layers))
    return config, reference.params(config, seed)


def by_block(tree, memory_layers):
    """{(block or None, path): values}, written without the code under test."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree["params"]):
        first, *rest = (key.key for key in path)
        if first in ("memory_blocks", "blocks"):
            offset = memory_layers if first == "blocks" else 0
            found |= {(offset + row, *rest): np.asarray(leaf[row])
                      for row in range(leaf.shape[0])}
        else:
            found[(None, first, *rest)] = np.asarray(leaf)
    return found


@pytest.mark.parametrize("old,new", [
    ((0, "lm2"), (LAYERS, "lm2")), ((LAYERS, "lm2"), (0, "lm2")), ((1, "lm2"), (3, "lm2")),
    pytest.param((2, "lm2"), (2, "lm2"), marks=pytest.mark.slow),
    pytest.param((0, "lm2"), (LAYERS, "rmt"), marks=pytest.mark.slow),
    ((LAYERS, "rmt"), (2, "armt"))])
def test_every_block_keeps_what_both_models_have(old, new):
    (_, there), (_, here) = variables(0, *old), variables(1, *new)
    result = jax.jit(transplant.transplant)(there, here)
    assert jax.tree.map(np.shape, result) == jax.tree.map(np.shape, here)
    # Without a memory beside it a block is scanned among "blocks".
    rows = [layers if kind != "rmt" else 0 for layers, kind in (old, new)]
    source, begun, got = by_block(there, rows[0]), by_block(here, rows[1]), by_block(result,
                                                                                     rows[1])
    for key, value in got.items():
        np.testing.assert_array_equal(value, source.get(key, begun[key]), str(key))
    differences = transplant.compare(there, here)
    named = {"/".join((f"block {key[0]}", *key[1:]) if key[0] is not None else key[1:])
             for key in got.keys() - source.keys()}
    assert set(differences.missing) == named and not differences.mismatched
    assert len(differences.unused) == len(source.keys() - got.keys())


def test_parameters_of_another_shape_are_all_named():
    (_, there), (_, here) = variables(0, 1), variables(1, 1, mlp_dim=16, vocab_size=13)
    differences = transplant.compare(there, here)
    assert {name for name, *_ in differences.mismatched} == {
        "embedding", *(f"block {block}/mlp/{name}_proj/kernel" for block in range(LAYERS)
                       for name in ("gate", "up", "down"))}
    line, = differences.lines()
    assert "embedding [11, 8] -> [13, 8]" in line
    assert f"blocks 0-{LAYERS - 1}/mlp/up_proj/kernel [8, 12] -> [8, 16]" in line


def test_names_that_differ_in_the_block_alone_are_one():
    names = ("embedding", *(f"block {block}/mlp/kernel" for block in (0, 1, 2, 5)), "block 7/x")
    line, = transplant.Differences(names, (), ()).lines()
    assert line == ("not in the source, so initialised: embedding, blocks 0-2,5/mlp/kernel, "
                    "block 7/x")


@pytest.mark.parametrize("text,parts", [("runs/a", ("runs/a", None)), ("runs/a:30", ("runs/a", 30)),
                                        ("a:b", ("a:b", None))])
def test_a_source_may_name_a_step(text, parts):
    path, step = transplant.split_source(text)
    assert (str(path), step) == parts
