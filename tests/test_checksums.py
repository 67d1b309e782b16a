"""Damaged checkpoints are detected, named and skipped, whatever the damage."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from states import saved

from lm2_jax.checkpoint import checksums
from lm2_jax.checkpoint.checkpointer import META, PARAMS, PARTS, Checkpointer
from lm2_jax.checkpoint.folder import COMMIT_MARKER, STEP_METADATA

# Their presence is checked before all checksums.
CHECKED_FIRST = (STEP_METADATA, *(f"{part}/{COMMIT_MARKER}" for part in PARTS), COMMIT_MARKER)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two_steps")
    saved(workdir, [2, 4]).close()
    return workdir


@pytest.fixture
def workdir(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "run")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def payload(folder):
    """All files but the checksums and those that orbax writes after them, which hold no data."""
    return sorted(path for part in PARTS for path in files(folder / part))


def test_all_files_have_checksums(two_steps):
    folder = two_steps / "checkpoints" / "4"
    entries = json.loads((folder / checksums.FILE).read_text())
    assert list(entries) == [path.relative_to(folder).as_posix() for path in payload(folder)]
    assert all((folder / path).stat().st_size == entry[0] for path, entry in entries.items())
    assert Checkpointer(two_steps).newest_valid_step() == (4, [])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(two_steps, data):
    folder = two_steps / "checkpoints" / "4"
    path = data.draw(st.sampled_from([*payload(folder), folder / checksums.FILE]))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(bad)
        problem = checksums.find_problem(folder)
    finally:
        path.write_bytes(good)
    if path.name != checksums.FILE:
        assert problem == f"{path.relative_to(folder).as_posix()} has changed bytes"
    assert problem


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", " ", 1), lambda text: text.replace("[", "[ ", 1),
    lambda text: text.replace("{", "{\n\"a\": [0, \"00000000\"],", 1), lambda text: "[]\n",
    lambda text: "", lambda text: text[:-9], str.upper])
def test_changed_checksums_are_damage(workdir, change):
    path = workdir / "checkpoints" / "4" / checksums.FILE
    path.write_text(change(path.read_text()))
    step, (line,) = Checkpointer(workdir).newest_valid_step()
    assert step == 2 and "4 is damaged: " in line


@pytest.mark.parametrize("damage,wanted", [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has {less} bytes instead of {size}"),
    (lambda path: path.write_bytes(b""), "has 0 bytes instead of {size}"),
    (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has {more} bytes instead of {size}"),
    (lambda path: (path.unlink(), path.mkdir()), "cannot be read (Is a directory)"),
], ids=["missing", "truncated", "empty", "longer", "folder"])
def test_each_file_is_named(workdir, damage, wanted):
    folder = workdir / "checkpoints" / "4"
    for path in payload(folder):
        good, name = path.read_bytes(), path.relative_to(folder).as_posix()
        damage(path)
        step, (line,) = Checkpointer(workdir).newest_valid_step()
        size = len(good)
        said = wanted.format(size=size, less=size - 1, more=size + 1)
        if name in CHECKED_FIRST and wanted.startswith("cannot"):
            said = "is missing"
        expected = f"{folder} is damaged: {name} {said}; using step 2 instead"
        assert (step, line) == (2, expected)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(good)
    assert Checkpointer(workdir).newest_valid_step() == (4, [])


def test_a_missing_marker_of_orbax_is_named(workdir):
    for name in (STEP_METADATA, COMMIT_MARKER):
        path = workdir / "checkpoints" / "4" / name
        path.rename(workdir / name)
        step, (line,) = Checkpointer(workdir).newest_valid_step()
        assert step == 2 and f"4 is damaged: {name} is missing; using step 2 instead" in line
        (workdir / name).rename(path)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_part(workdir, step, part):
    flip(max(files(workdir / "checkpoints" / str(step) / part), key=lambda p: p.stat().st_size))


def test_an_evaluation_verifies_only_what_it_reads(workdir):
    checkpointer = Checkpointer(workdir)
    flip_part(workdir, 4, "training")
    assert checkpointer.newest_valid_step((PARAMS, META)) == (4, [])
    assert checkpointer.newest_valid_step()[0] == 2
    flip_part(workdir, 4, "meta")
    assert checkpointer.newest_valid_step((PARAMS, META))[0] == 2
    assert "more file" not in checkpointer.newest_valid_step((PARAMS, META))[1][0]
    assert ", and 1 more file;" in checkpointer.newest_valid_step()[1][0]


def test_a_given_step_is_not_replaced_by_another(workdir):
    checkpointer = Checkpointer(workdir)
    flip_part(workdir, 4, "params")
    assert checkpointer.select_step(2) == 2
    with pytest.raises(ValueError, match="4 is damaged: params/.*; valid steps: 2$"):
        checkpointer.select_step(4)


@pytest.mark.parametrize("required", [True, False])
def test_nothing_is_selected_when_all_steps_are_damaged(workdir, required):
    flip_part(workdir, 4, "params")
    shutil.rmtree(workdir / "checkpoints" / "2" / "meta")
    with pytest.raises(ValueError) as error:
        Checkpointer(workdir).select_step(required=required)
    line = str(error.value)
    assert "\n" not in line and "4 is damaged: params/" in line
    assert "2 is damaged: meta/commit_success.txt is missing" in line
    assert line.endswith("restore one from a backup, or train from the start in another --workdir")


def test_checkpoints_without_checksums_are_used_but_not_verified(workdir):
    folder, said = workdir / "checkpoints" / "4", []
    (folder / checksums.FILE).unlink()
    checkpointer = Checkpointer(workdir, log=said.append)
    assert checkpointer.select_step() == 2  # it had checksums, so their file was lost
    assert said == [f"{folder} is damaged: {checksums.FILE} is missing; using step 2 instead"]
    about = json.loads((folder / STEP_METADATA).read_text())
    (folder / STEP_METADATA).write_text(json.dumps(about | {"custom_metadata": {}}))  # as before
    assert checkpointer.select_step() == 4
    assert said[1:] == [f"{folder} is not verified: it was saved without checksums"]


def test_a_step_deleted_while_it_is_read_is_not_damaged(workdir, monkeypatch):
    def problem(folder, parts):
        shutil.rmtree(folder)
        return "params/d/0 is missing"

    monkeypatch.setattr(checksums, "find_problem", problem)
    assert Checkpointer(workdir).newest_valid_step() == (0, [])


def test_a_step_being_deleted_while_it_is_read_is_not_damaged(workdir, monkeypatch):
    """Its folder is still there, without some of its files; a newer step has been saved."""
    def find_problem(folder, parts):
        monkeypatch.undo()
        shutil.copytree(folder, folder.with_name("6"))
        (folder / COMMIT_MARKER).unlink()
        return "params/d/0 is missing"

    monkeypatch.setattr(checksums, "find_problem", find_problem)
    assert Checkpointer(workdir).newest_valid_step() == (6, [])


def test_damaged_steps_are_renamed_and_saved_again(workdir):
    said, checkpoints = [], workdir / "checkpoints"
    for turn in ("4.damaged", "4.damaged.2"):
        flip_part(workdir, 4, "params")
        flipped = [path.read_bytes() for path in files(checkpoints / "4")]
        checkpointer = Checkpointer(workdir, log=said.append)
        assert checkpointer.select_step() == 2 and checkpointer.steps() == [2, 4]
        checkpointer.rename_steps_after(2)
        assert checkpointer.steps() == [2] and said[-1] == f"renamed {checkpoints / '4'} to {turn}"
        assert [path.read_bytes() for path in files(checkpoints / turn)] == flipped
        again = saved(workdir, [4])
        assert again.newest_valid_step() == (4, [])
        again.close()
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "2", "4", "4.damaged", "4.damaged.2"]


def test_parts_are_the_folders(two_steps):
    folder = two_steps / "checkpoints" / "2"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(PARTS)
