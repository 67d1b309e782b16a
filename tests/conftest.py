"""Tests run on eight virtual CPU devices, those of `pytest -m gpu` on a GPU; slow files first."""

import gc
import os
import signal

import hypothesis
import jax
import pytest
import runs

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Of the first process, for all that it starts.
os.environ["LM2_TEST_CACHE"] = runs.compiled()
# Programs compile in half the time so. XLA_FLAGS=--xla_cpu_use_fusion_emitters=true tests what
# users compile. Newer versions lack the flag.
flags = os.environ.get("XLA_FLAGS", "")
if jax.__version_info__ < (0, 11) and "fusion_emitters" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_compilation_cache_dir", runs.compiled())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# In the background of a shell script SIGINT is ignored, and bash cannot trap what was ignored.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure.
hypothesis.settings.register_profile("lm2", deadline=None)
hypothesis.settings.load_profile("lm2")

# Tracing makes many small objects, and few that are garbage: collections take a tenth of the time.
gc.set_threshold(100_000, 50, 100)

SLOW = ("test_hosts", "test_notebook", "test_bucket_runs", "test_resume", "test_sweep",
        "test_checkpoint_faults", "test_beginning", "test_model_rules", "test_train", "test_cli",
        "test_mesh", "test_wavefront", "test_stages")


def pytest_configure(config):
    """A GPU that is there is used by `pytest -m gpu` alone."""
    if config.option.markexpr == "gpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")


def pytest_ignore_collect(collection_path, config):
    """Other files need eight devices, some of them as soon as they are imported."""
    if config.option.markexpr == "gpu" and collection_path.suffix == ".py":
        return collection_path.name != "test_gpu.py" or None
    return None


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else 9)


def pytest_collection_finish(session):
    """What has been imported stays, and need not be looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def finished():
    """The workdir of a run of 40 steps with checkpoints of 32, 36 and 40, only to be read."""
    return runs.finished()


@pytest.fixture(scope="module")
def compiled_quickly():
    """Of large programs that run for a moment: without most optimizations, in about half the time.

    Not for the rules of the model, which must hold for what users compile.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
