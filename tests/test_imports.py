"""Importing the package has no side effects."""

import os
import subprocess
import sys

IMPORT_ALL = """
import logging, os, pkgutil, importlib, signal, sys, threading, warnings
import jax
from jax._src import xla_bridge

def found():
    return (dict(os.environ), dict(jax.config.values), signal.getsignal(signal.SIGTERM),
            list(warnings.filters), logging.getLogger().handlers, threading.active_count())

import absl.logging, flax, grain, matplotlib, optax, orbax.checkpoint, rich, tensorboardX  # theirs
before = found()
import lm2_jax
names = [m.name for m in pkgutil.walk_packages(lm2_jax.__path__, "lm2_jax.")]
assert len(names) > 60, names
names.remove("lm2_jax.eval.harness.model")  # needs lm_eval, which sets environment variables
for name in names:
    importlib.import_module(name)
    assert not xla_bridge.backends_are_initialized(), name
for now, then in zip(found(), before, strict=True):
    assert now == then, (now, then)
"""
RETRIEVE = """
import numpy as np
from jax._src import xla_bridge
from lm2_jax.data.babilong.mixing import Joined, Text
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.eval import rag

text = Text([[1, 2], [3, 4], [5, 6]])
end = np.empty(0, np.int32)
prompt = Prompt("qa1", "1k", Joined((end, text, end)), "", "")
kept = rag.retrieve(prompt, np.array([4]), 1, "document")
assert kept.tokens[:].tolist() == [3, 4]
assert not xla_bridge.backends_are_initialized()
"""


def run(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, text=True,
                          capture_output=True, timeout=300)


def test_no_module_initializes_a_backend_or_changes_the_process():
    """After a backend is initialized `jax.distributed.initialize` is refused."""
    done = run(IMPORT_ALL)
    assert done.returncode == 0, done.stderr[-3000:]


def test_retrieval_needs_no_device():
    """Where the platform asked for is not there, bm25s failed before JAX could say so."""
    done = run(RETRIEVE, JAX_PLATFORMS="cuda")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bm25s" not in done.stderr
