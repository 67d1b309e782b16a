"""Every test runs on eight virtual CPU devices; the files that take longest begin."""

import os

import jax
import pytest
import runs

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Of the first process, for all that it starts.
os.environ["LM2_TEST_CACHE"] = runs.compiled()

SLOW = ("test_resume", "test_hosts", "test_checkpoint_faults", "test_mesh", "test_train",
        "test_cli", "test_model_rules")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else 9)


@pytest.fixture(scope="module")
def compiled_quickly():
    """Of large programs that run for a moment: without most optimizations, in about half the time.

    Not for the rules of the model, which must hold for what users compile.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
