"""What a resume allocates, and workdirs that an earlier version has written."""

import dataclasses
import json
import tarfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from training import CONFIG, MODEL, one_device

import lm2_jax
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig
from lm2_jax.model.lm import LanguageModel
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

META = {"source_digest": "a" * 64, "tokenizer_digest": "b" * 64}


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def peak_bytes(action):
    """The result, and the most bytes of arrays that were alive meanwhile beside those before."""
    before, peak, done = live_bytes(), 0, threading.Event()

    def sample():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, live_bytes() - before)
            time.sleep(0.0005)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        result = action()
    finally:
        done.set()
        thread.join()
    return result, max(peak, live_bytes() - before)


def test_a_resume_allocates_one_state_and_compiles_nothing(tmp_path):
    model = LanguageModel(dataclasses.replace(MODEL, embed_dim=128, mlp_dim=2048, vocab_size=4096))
    mesh, tx = one_device(), optimizer.make(CONFIG)
    state = train_state.create(model, tx, 0, mesh)[0]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    total = np.sum([np.float64(leaf.sum()) for leaf in jax.tree.leaves(state.params)])
    checkpointer = Checkpointer(tmp_path, CheckpointConfig())
    checkpointer.save(3, state.params, workdirs.training_part(state),
                      META | {"next_step": 3, "curriculum": {"stages": []}})
    checkpointer.close()
    del state

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **what: compiled.append((event, what)) if "backend_compile" in event
        else None)
    (restored, position), peak = peak_bytes(lambda: workdirs.restore_training(
        Checkpointer(tmp_path), 3, train_state.abstract(model, tx, mesh), META))
    jax.monitoring.clear_event_listeners()
    assert size <= peak < 1.2 * size
    assert position == {"stages": []} and compiled == []
    assert total == np.sum([np.float64(leaf.sum()) for leaf in jax.tree.leaves(restored.params)])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A workdir of commit 25d1241: 4 steps of a shrunken configs/tiny.py."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parent / "data" / "workdir_25d1241.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"


def test_a_workdir_of_an_earlier_version_loads(earlier, capsys):
    config, params, step = lm2_jax.load_checkpoint(earlier)
    expected = json.loads((earlier / "expected.json").read_text())
    sums = {jax.tree_util.keystr(path): float(np.abs(np.asarray(leaf, np.float64)).sum())
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert (step, config.model.embed_dim) == (4, 8) and sums == expected["abs_sums"]
    assert capsys.readouterr().err == ""


def test_a_workdir_of_an_earlier_version_is_evaluated_and_trained_further(earlier, capsys):
    overrides = json.loads((earlier / "expected.json").read_text())["overrides"]
    rows = json.loads((earlier / "eval" / "results.json").read_text())
    command = ["--config=configs/tiny.py", f"--workdir={earlier}",
               "--config.model.memory.write=paper",
               *(f"--config.{override}" for override in overrides)]
    assert main(["eval", *command]) == 0, capsys.readouterr().err
    again = json.loads((earlier / "eval" / "results.json").read_text())
    assert [row["n"] for row in again] == [row["n"] for row in rows]
    assert main(["train", *command, "--config.train.num_steps=5"]) == 0, capsys.readouterr().err
    assert f"resuming {earlier} after step 4" in " ".join(capsys.readouterr().out.split())
    assert Checkpointer(earlier).newest_valid_step() == (5, [])
