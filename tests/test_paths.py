"""Paths that users give: expanded, or refused with one line before anything is made or trained."""

import os
from pathlib import Path

import pytest
import runs
from states import MESHES, abstract, bits, random_bits, saved

from lm2_jax.checkpoint.checkpointer import Checkpointer, SaveError
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig
from lm2_jax.runtime import paths

URLS = ["gs://bucket/run", "s3://bucket/run", "https://host/run", "file:///tmp/run"]
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
def test_a_workdir_that_is_a_url_is_refused(command, url, config, capsys):
    line = refused([command, config, f"--workdir={url}"], capsys)
    assert line.startswith(f"lm2 {command}: {url} is a URL; give a path on a file system")


@pytest.mark.parametrize("arguments", [
    ["report", "gs://bucket/run"], ["report", ".", "--out=gs://bucket/report"],
    ["train", "CONFIG", "--workdir=run", "--init-from=gs://bucket/run:100"],
    ["compile", "CONFIG", "--topology=cpu:8", "--out=s3://bucket/report.json"]])
def test_every_other_path_that_is_a_url_is_refused(arguments, config, capsys):
    arguments = [config if argument == "CONFIG" else argument for argument in arguments]
    assert "://bucket/" in refused(arguments, capsys)


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
    assert paths.local("~/run") == Path("/home/someone/run")
    assert paths.local("a/~/run") == Path("a/~/run")
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
        patched.setattr(paths, "for_checkpoints", paths.local)
        checkpointer = Checkpointer(workdir, CheckpointConfig(keep=1))
    checkpointer.save(4, *random_bits(4, MESHES[0]), {})
    with pytest.raises(SaveError, match="checkpoint of step 4 could not be saved: .*NOT_FOUND"):
        checkpointer.wait()
    checkpointer.close()
    assert Checkpointer(tmp_path / "tiny").newest_valid_step() == (2, [])
