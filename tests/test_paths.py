"""Paths that users give: expanded, or refused with one line before anything is made or trained."""

import importlib.util
import os
import pickle
from pathlib import Path

import pytest
import runs
from states import MESHES, abstract, bits, random_bits, saved

from lm2_jax.checkpoint.checkpointer import Checkpointer, SaveError
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig
from lm2_jax.runtime import paths

URLS = {"https://host/run": "a URL of a kind that is not supported",
        "file:///tmp/run": "a URL of a kind that is not supported",
        "gs://bucket": "a whole bucket; give a folder in it, as gs://bucket/run",
        "gs://Büro/run": "'Büro' cannot be the name of a bucket",
        "s3://bucket/a//b": "has the part ''", "s3://bucket/../b": "has the part '..'",
        "gs://bucket/a [1]": "has the character [", "s3://bucket/100%": "has the character %",
        "gs://bucket/a#1": "has the character #", "gs://bucket/a\tb": "has a control character"}
COMMANDS = {"train": [runs.CONFIG, *runs.SMALL], "eval": [runs.CONFIG], "gates": [runs.CONFIG],
            "analyze": [runs.CONFIG]}


def refused(arguments, capsys):
    """The line with which a command is refused; it must leave the working directory as it was."""
    before = sorted(os.listdir())
    assert main(arguments) == 2
    line, = capsys.readouterr().err.splitlines()
    assert sorted(os.listdir()) == before
    return line


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return f"--config={runs.ROOT}/configs/tiny.py"


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_url_that_cannot_be_a_workdir_is_refused(command, url, config, capsys):
    line = refused([command, config, f"--workdir={url}"], capsys)
    assert line.startswith(f"lm2 {command}: ") and URLS[url] in line


@pytest.mark.parametrize("arguments", [
    ["report", "ftp://bucket/run"], ["report", ".", "--out=az://bucket/report"],
    ["train", "CONFIG", "--workdir=run", "--init-from=https://bucket/run:100"],
    ["train", "--config=gs://bucket/config.py", "--workdir=run"],
    ["train", "CONFIG", "--workdir=run", "--config.data.background=ftp://bucket/books"],
    ["eval", "CONFIG", "--workdir=run", "--config.eval.samples=az://bucket/samples"],
    ["compile", "CONFIG", "--topology=cpu:8", "--out=http://bucket/report.json"]])
def test_every_other_url_is_checked(arguments, config, capsys):
    arguments = [config if argument == "CONFIG" else argument for argument in arguments]
    assert "://bucket/" in refused(arguments, capsys)


@pytest.mark.parametrize("scheme,library,extra", [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_the_extra_that_is_missing_is_named(scheme, library, extra, config, monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: None if name == library else there(name))
    assert refused(["train", config, f"--workdir={scheme}://bucket/run"], capsys) == (
        f"lm2 train: {scheme}://bucket/run needs the library {library}: pip install "
        f"'lm2_jax[{extra}]'")


def test_a_path_in_a_bucket_is_never_taken_for_a_local_one():
    path = paths.of("gs://bucket/a run/é~ [1]/#x.txt")
    assert str(path) == "gs://bucket/a run/é~ [1]/#x.txt" and path.name == "#x.txt"
    assert paths.of(path) is path and paths.of(str(path)) == path
    assert pickle.loads(pickle.dumps(path)) == path
    assert str(path.parent.parent / "b") == "gs://bucket/a run/b"
    for local in (Path, open, os.fspath, os.stat):
        with pytest.raises(TypeError):
            local(path)


@pytest.mark.parametrize("name,wanted", [
    ("tiny [lr=5e-3]", "has one of the characters"), ("a*", "has one of the characters"),
    ("a?", "has one of the characters"), ("back\\slash", "has a backslash"),
    ("not\udcffutf8", "is not UTF-8")])
@pytest.mark.parametrize("where", ["workdir", "working directory"])
def test_a_path_without_valid_checkpoints_is_refused_before_training(
        name, wanted, where, config, monkeypatch, capsys):
    workdir = name
    if where == "working directory":
        Path(name).mkdir()
        monkeypatch.chdir(name)
        workdir = "run"
    assert wanted in refused(["train", config, f"--workdir={workdir}"], capsys)


def test_a_home_directory_is_expanded(config, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.of("~/run") == Path("/home/someone/run")
    assert paths.of("a/~/run") == Path("a/~/run")
    line = refused(["eval", config, "--workdir=~/run"], capsys)
    assert line.startswith("lm2 eval: /home/someone/run holds no run")
    assert "no such home" in refused(["eval", config, "--workdir=~nobody-at-all/run"], capsys)
    assert Checkpointer("~/run").directory == Path("/home/someone/run/checkpoints")


@pytest.mark.parametrize("name", [" ", "%20", "#1", "{a}", "a=1,b", "é", "$HOME", "'\"", "a:b"])
def test_other_characters_work(tmp_path, name):
    saved(tmp_path / name, [2]).close()
    restored = Checkpointer(tmp_path / name).restore(2, *abstract(random_bits(0, MESHES[0])))
    assert bits(restored) == bits(random_bits(2, MESHES[0]))


def test_a_symbolic_link_gives_a_path_another_name(tmp_path):
    (tmp_path / "tiny [lr=5e-3]").mkdir()
    (tmp_path / "tiny").symlink_to(tmp_path / "tiny [lr=5e-3]")
    saved(tmp_path / "tiny", [2]).close()
    restored = Checkpointer(tmp_path / "tiny").restore(2, *abstract(random_bits(0, MESHES[0])))
    assert bits(restored) == bits(random_bits(2, MESHES[0]))
    with pytest.raises(ValueError, match="has one of the characters .* symbolic link to this one$"):
        Checkpointer(tmp_path / "tiny [lr=5e-3]")


def test_a_checkpoint_that_cannot_be_restored_is_a_failed_save(tmp_path, monkeypatch):
    """Whatever the cause: the older checkpoint stays, although keep is 1."""
    workdir = tmp_path / "tiny [lr=5e-3]"
    workdir.mkdir()
    (tmp_path / "tiny").symlink_to(workdir)
    saved(tmp_path / "tiny", [2]).close()
    with monkeypatch.context() as patched:
        patched.setattr(paths, "for_checkpoints", paths.of)
        checkpointer = Checkpointer(workdir, CheckpointConfig(keep=1))
    checkpointer.save(4, *random_bits(4, MESHES[0]), {})
    with pytest.raises(SaveError, match="checkpoint of step 4 could not be saved: .*NOT_FOUND"):
        checkpointer.wait()
    checkpointer.close()
    assert Checkpointer(tmp_path / "tiny").newest_valid_step() == (2, [])
