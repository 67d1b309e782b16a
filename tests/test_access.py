"""Whether a workdir can be used."""

import errno
import fcntl
import os

import pytest

from lm2_jax.checkpoint import workdir
from lm2_jax.config import Config, DataConfig
from lm2_jax.runtime import locks as access
from lm2_jax.runtime import processes


def test_a_second_run_is_told_of_the_first(tmp_path):
    with (access.locked(tmp_path, "lm2 train"),
          pytest.raises(ValueError, match=rf"in use by lm2 train on .*, pid {os.getpid()}, since"),
          access.locked(tmp_path, "lm2 train")):
        pass
    with access.locked(tmp_path, "lm2 train"):
        assert "lm2 train" in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with access.locked(tmp_path, "lm2 train"):
        assert f"{tmp_path}: this file system has no locks" in capsys.readouterr().err


def test_the_first_process_alone_makes_the_tokenizer(tmp_path, monkeypatch):
    """The other processes find it in a workdir that has no config yet."""
    config = Config(data=DataConfig(background_sentences=200, tokenizer_vocab_size=256))
    path = tmp_path / "tokenizer.json"
    path.write_text("left by a run that failed")
    made, *_ = workdir.prepare(config, tmp_path)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    found, *_ = workdir.prepare(config, tmp_path)
    assert found.digest == made.digest and path.stat().st_mtime_ns == before
