"""Whether a workdir can be used."""

import errno
import fcntl
import os

import pytest

from lm2_jax.jobs import access


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
