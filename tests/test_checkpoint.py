"""Checkpoints are exact, complete or absent, and only the newest are kept."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import multihost_utils
from states import MESHES, abstract, bits, random_bits, saved

import lm2_jax
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.checkpoint.folder import COMMIT_MARKER, PARTS
from lm2_jax.config import CheckpointConfig

TMP = ".orbax-checkpoint-tmp"  # how orbax names what it is writing


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    """A workdir with a checkpoint of step 2, not to be changed."""
    workdir = tmp_path_factory.mktemp("one_step")
    saved(workdir, [2]).close()
    return workdir


@pytest.fixture
def workdir(one_step, tmp_path):
    return shutil.copytree(one_step, tmp_path / "run")


@pytest.mark.parametrize("mesh", MESHES, ids=["same mesh", "other mesh"])
def test_round_trip_is_exact_in_the_requested_shardings(one_step, mesh):
    wanted = random_bits(2, MESHES[0])
    like = random_bits(0, mesh)
    checkpointer = Checkpointer(one_step)
    restored = checkpointer.restore(2, *like)
    params = checkpointer.restore_params(2, abstract(like[0]))
    assert checkpointer.meta(2) == {"next_step": 2}
    checkpointer.close()
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    assert bits(restored) == bits(wanted) != bits(like)
    assert bits(params) == bits(wanted[0])
    for leaf, other in zip(jax.tree.leaves((restored, params)), jax.tree.leaves((like, like[0])),
                           strict=True):
        assert leaf.sharding == other.sharding


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_the_state_at_the_call(tmp_path, asynchronous):
    """Training continues and donates the state during the save."""
    params, training = random_bits(5, MESHES[0])
    wanted = bits((params, training))
    checkpointer = Checkpointer(tmp_path, CheckpointConfig(asynchronous=asynchronous))
    change = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    checkpointer.save(5, params, training, {})
    for _ in range(3):
        params = change(params)
        training["opt_state"] = change(training["opt_state"])
    checkpointer.wait()
    restored = checkpointer.restore(5, *random_bits(0, MESHES[0]))
    checkpointer.close()
    assert bits(restored) == wanted


def test_the_newest_are_kept(tmp_path):
    checkpointer = saved(tmp_path, [3, 5, 10, 20], keep=2)
    assert checkpointer.steps() == [10, 20]
    checkpointer.close()
    again = saved(tmp_path, [100], keep=2)
    assert again.steps() == [20, 100]
    again.close()


def test_selecting_a_step(one_step, tmp_path):
    checkpointer = Checkpointer(one_step)
    assert checkpointer.select_step() == checkpointer.select_step(2) == 2
    with pytest.raises(ValueError, match=f"^{one_step} has no checkpoint of step 4; it has 2$"):
        checkpointer.select_step(4)
    empty = Checkpointer(tmp_path)
    assert empty.select_step(required=False) == 0
    for step in (None, 5):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint; train first: lm2"):
            empty.select_step(step)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def leave_incomplete(workdir, kind):
    """Adds what a crash or an interrupted copy may leave beside the checkpoint of step 2."""
    checkpoints = workdir / "checkpoints"
    whole = checkpoints / "2"
    saving = checkpoints / f"6.saving{TMP}"
    if kind == "empty tmp":
        saving.mkdir()
    elif kind == "full tmp":
        shutil.copytree(whole, saving)
    elif kind == "tmp part":
        shutil.copytree(whole, saving)
        (saving / COMMIT_MARKER).unlink()
        shutil.move(saving / "params", saving / f"params{TMP}")
    elif kind in SUFFIXES:
        shutil.copytree(whole, checkpoints / f"6{kind}")
    elif kind == "empty step":
        (checkpoints / "6").mkdir()
    else:
        shutil.copytree(whole, checkpoints / "6")
        (checkpoints / "6" / kind / COMMIT_MARKER).unlink()


SUFFIXES = [".saving", ".deleting", TMP]
INCOMPLETE = ["empty tmp", "full tmp", "tmp part", *SUFFIXES, "empty step", ".", *PARTS]


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_an_incomplete_checkpoint_is_never_selected(workdir, kind):
    leave_incomplete(workdir, kind)
    before = files(workdir)
    reader = Checkpointer(workdir)
    assert reader.steps() == [2]
    reader.close()
    assert files(workdir) == before  # the run may still be saving there

    writer = saved(workdir, [4, 6], keep=1)
    assert writer.steps() == [6]
    restored = writer.restore(6, *random_bits(0, MESHES[0]))
    assert bits(restored) == bits(random_bits(6, MESHES[0]))
    writer.close()
    damaged = ["6.damaged"] if kind in ("empty step", ".", *PARTS) else []
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6", *damaged]


def test_the_rest_of_an_interrupted_deletion_is_removed(tmp_path):
    saved(tmp_path, [2, 4, 6]).close()
    (tmp_path / "checkpoints" / "2" / COMMIT_MARKER).unlink()
    writer = saved(tmp_path, [8], keep=2)
    assert writer.newest_valid_step() == (8, [])
    writer.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]


def test_a_save_does_not_ask_the_preemption_service(tmp_path, monkeypatch):
    """Numbers other than those of `Preemption` would make it miss a SIGTERM."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    saved(tmp_path, [2]).close()
    assert asked == []


def test_other_folders_are_left_alone(workdir):
    for name in ("notes", "6.old", "best"):
        (workdir / "checkpoints" / name).mkdir()
    writer = saved(workdir, [4], keep=1)
    assert writer.steps() == [4]
    writer.close()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == [
        "4", "6.old", "best", "notes"]


@pytest.mark.parametrize("content", [None, "", "config.json"])
def test_loading_from_a_workdir_without_a_checkpoint(tmp_path, content):
    workdir = tmp_path / "run"
    if content is not None:
        workdir.mkdir()
    if content:
        (workdir / content).write_text('{"model": {"vocab_size": 50}}')
    before = files(tmp_path)
    wanted = "holds no checkpoint" if content else "holds no run"
    with pytest.raises(FileNotFoundError, match=f"run {wanted}.*lm2 train --config=") as error:
        lm2_jax.load_checkpoint(workdir)
    assert "\n" not in str(error.value) and files(tmp_path) == before


def test_a_state_of_other_data_or_tokenizer_is_not_restored(workdir):
    meta = {"source_digest": "a" * 64, "tokenizer_digest": "b" * 64}
    writer = saved(workdir, [])
    writer.save(4, *random_bits(4, MESHES[0]), meta | {"next_step": 4, "curriculum": {}})
    writer.save(5, *random_bits(5, MESHES[0]), meta)
    writer.wait()
    with pytest.raises(ValueError, match="another version of lm2_jax .*lacks curriculum, next"):
        workdirs.restore_training(writer, 5, None, meta)
    for key, what in (("source_digest", "data"), ("tokenizer_digest", "tokenizer")):
        with pytest.raises(ValueError, match=f"made with other {what}.*another --workdir") as error:
            workdirs.restore_training(writer, 4, None, meta | {key: "c" * 64})
        assert "\n" not in str(error.value)
    writer.close()


@pytest.mark.parametrize("name,leaf,wanted", [
    ("half", jnp.zeros((8, 8), jnp.float32), r"half is bfloat16 \[8, 8\] there, float32 \[8, 8\]"),
    ("scale", jnp.zeros(9), r"scale is float32 \[8\] there, float32 \[9\] here"),
    ("bias", jnp.zeros(3), r"bias is not there, float32 \[3\] here"),
])
def test_nothing_is_converted(one_step, name, leaf, wanted):
    params = random_bits(0, MESHES[0])[0]
    with pytest.raises(ValueError, match=f"2/params does not fit: {wanted}") as error:
        Checkpointer(one_step).restore_params(2, abstract(params) | {name: leaf})
    assert "\n" not in str(error.value)


def test_unexpected_parameters_and_another_kind_of_key_are_named(one_step):
    params, training = random_bits(0, MESHES[0])
    checkpointer = Checkpointer(one_step)
    fewer = {name: leaf for name, leaf in abstract(params).items() if name != "one"}
    with pytest.raises(ValueError, match=r"one is float32 \[\] there, not here$"):
        checkpointer.restore_params(2, fewer)
    with pytest.raises(ValueError, match=r"rng is uint32 \[2\] there, uint32 \[4\] here$"):
        checkpointer.restore(2, params, training | {"rng": jax.random.key(0, impl="rbg")})


def test_a_read_error_is_one_line(workdir):
    """As with an early version without checksums, which would detect it first."""
    (workdir / "checkpoints" / "2" / "params" / "manifest.ocdbt").write_bytes(b"x" * 50)
    (workdir / "checkpoints" / "2" / "meta" / "metadata").write_bytes(b"{")
    checkpointer = Checkpointer(workdir)
    for read in (lambda: checkpointer.restore(2, *random_bits(0, MESHES[0])),
                 lambda: checkpointer.meta(2)):
        with pytest.raises(ValueError, match="2/(params|meta) cannot be read: ") as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
