"""Damaged checkpoints: found out whatever the damage, named, and passed over."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from states import saved

from lm2_jax.checkpoint import checksums
from lm2_jax.checkpoint.checkpointer import META, PARAMS, PARTS, Checkpointer
from lm2_jax.checkpoint.folder import ABOUT, LAST_FILE

# Whether these are there is asked first.
FIRST = (ABOUT, *(f"{part}/{LAST_FILE}" for part in PARTS), LAST_FILE)


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


def listed(folder):
    return [path for path in files(folder) if path != folder / checksums.FILE]


def test_all_files_are_listed_as_they_are(two_steps):
    folder = two_steps / "checkpoints" / "4"
    entries = json.loads((folder / checksums.FILE).read_text())
    assert list(entries) == [path.relative_to(folder).as_posix() for path in listed(folder)]
    assert all((folder / path).stat().st_size == entry[0] for path, entry in entries.items())
    assert Checkpointer(two_steps).newest_good() == (4, [])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(two_steps, data):
    folder = two_steps / "checkpoints" / "4"
    path = data.draw(st.sampled_from(files(folder)))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(bad)
        problem = checksums.problem(folder)
    finally:
        path.write_bytes(good)
    if path.name != checksums.FILE:
        assert problem == f"{path.relative_to(folder).as_posix()} has changed bytes"
    assert problem


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", " ", 1), lambda text: text.replace("[", "[ ", 1),
    lambda text: text.replace("{", "{\n\"a\": [0, \"00000000\"],", 1), lambda text: "[]\n",
    lambda text: "", lambda text: text[:-9], str.upper])
def test_checksums_that_are_not_as_they_were_written(workdir, change):
    path = workdir / "checkpoints" / "4" / checksums.FILE
    path.write_text(change(path.read_text()))
    step, (line,) = Checkpointer(workdir).newest_good()
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
    for path in listed(folder):
        good, name = path.read_bytes(), path.relative_to(folder).as_posix()
        damage(path)
        step, (line,) = Checkpointer(workdir).newest_good()
        size = len(good)
        said = wanted.format(size=size, less=size - 1, more=size + 1)
        if name in FIRST and wanted.startswith("cannot"):
            said = "is missing"
        assert step == 2 and line.startswith(f"{folder} is damaged: {name} {said}; step 2"), line
        if path.is_dir():
            path.rmdir()
        path.write_bytes(good)
    assert Checkpointer(workdir).newest_good() == (4, [])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_part(workdir, step, part):
    flip(max(files(workdir / "checkpoints" / str(step) / part), key=lambda p: p.stat().st_size))


def test_an_evaluation_looks_at_what_it_reads(workdir):
    checkpointer = Checkpointer(workdir)
    flip_part(workdir, 4, "training")
    assert checkpointer.newest_good((PARAMS, META)) == (4, [])
    assert checkpointer.newest_good()[0] == 2
    flip_part(workdir, 4, "meta")
    assert checkpointer.newest_good((PARAMS, META))[0] == 2
    assert "more file" not in checkpointer.newest_good((PARAMS, META))[1][0]
    assert ", and 1 more file;" in checkpointer.newest_good()[1][0]


def test_a_step_asked_for_is_not_replaced_by_another(workdir):
    checkpointer = Checkpointer(workdir)
    flip_part(workdir, 4, "params")
    assert checkpointer.choose(2) == 2
    with pytest.raises(ValueError, match="4 is damaged: params/.*; the good ones: 2$"):
        checkpointer.choose(4)


@pytest.mark.parametrize("required", [True, False])
def test_without_a_good_one_nothing_is_chosen(workdir, required):
    flip_part(workdir, 4, "params")
    shutil.rmtree(workdir / "checkpoints" / "2" / "meta")
    with pytest.raises(ValueError) as error:
        Checkpointer(workdir).choose(required=required)
    line = str(error.value)
    assert "\n" not in line and "4 is damaged: params/" in line
    assert "2 is damaged: meta/commit_success.txt is missing" in line
    assert line.endswith("put one back from a copy, or train from the start in another --workdir")


def test_checkpoints_of_before_are_taken_but_not_verified(workdir):
    folder, said = workdir / "checkpoints" / "4", []
    (folder / checksums.FILE).unlink()
    checkpointer = Checkpointer(workdir, say=said.append)
    assert checkpointer.choose() == 2  # it had checksums, so their file was lost
    assert said == [f"{folder} is damaged: {checksums.FILE} is missing; step 2 is taken instead"]
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps(about | {"custom_metadata": {}}))  # as before
    assert checkpointer.choose() == 4
    assert said[1:] == [f"{folder} is not verified: it was saved without checksums"]


def test_a_step_that_goes_while_it_is_read_is_no_damage(workdir, monkeypatch):
    def problem(folder, parts):
        shutil.rmtree(folder)
        return "params/d/0 is missing"

    monkeypatch.setattr(checksums, "problem", problem)
    assert Checkpointer(workdir).newest_good() == (0, [])


def test_damaged_steps_are_kept_aside_and_saved_again(workdir):
    said, checkpoints = [], workdir / "checkpoints"
    for turn in ("4.damaged", "4.damaged.2"):
        flip_part(workdir, 4, "params")
        flipped = [path.read_bytes() for path in files(checkpoints / "4")]
        checkpointer = Checkpointer(workdir, say=said.append)
        assert checkpointer.choose() == 2 and checkpointer.steps() == [2, 4]
        checkpointer.set_aside_after(2)
        assert checkpointer.steps() == [2] and said[-1] == f"{checkpoints / '4'} is now {turn}"
        assert [path.read_bytes() for path in files(checkpoints / turn)] == flipped
        again = saved(workdir, [4])
        assert again.newest_good() == (4, [])
        again.close()
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "2", "4", "4.damaged", "4.damaged.2"]


def test_parts_are_the_folders(two_steps):
    folder = two_steps / "checkpoints" / "2"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(PARTS)
