"""The form of what is said: plain, one line a fact, or JSON lines."""

import io
import json
import re
import socket

import pytest

from lm2_jax.cli import main
from lm2_jax.report.table import Table
from lm2_jax.runtime import logs
from lm2_jax.runtime.console import Console, print_error


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    monkeypatch.setattr(logs, "_process", 0)
    monkeypatch.setattr(logs, "_step", None)
    monkeypatch.delenv("LM2_LOG", raising=False)
    monkeypatch.delenv("LM2_LOG_LEVEL", raising=False)


def say():
    Console().print("loss [1.5]\n\nand more")
    print_error("it failed")


def test_plain_text_is_as_it_is(capsys):
    logs.at(process=1, step=7)
    say()
    assert tuple(capsys.readouterr()) == ("loss [1.5]\n\nand more\n", "it failed\n")


def test_a_line_has_time_level_host_process_and_step(capsys, monkeypatch):
    monkeypatch.setenv("LM2_LOG", "lines")
    say()
    logs.at(process=3, step=7)
    print_error("slow", logs.WARNING)
    out, err = capsys.readouterr()
    time, host = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", re.escape(socket.gethostname())
    for line, wanted in zip([*out.splitlines(), *err.splitlines()], [
            rf"info    {host}/0 step -: loss \[1.5\]", rf"info    {host}/0 step -: and more",
            rf"error   {host}/0 step -: it failed", rf"warning {host}/3 step 7: slow"],
            strict=True):
        assert re.fullmatch(f"{time} {wanted}", line), line


def test_every_line_is_json(capsys, monkeypatch):
    """A table too, and characters that JSON escapes."""
    monkeypatch.setenv("LM2_LOG", "json")
    logs.at(step=40)
    Console().print('a "quoted" \\ text of 300 letters ' + "x" * 300)
    Console().print(Table(("name", "n"), [[["a", "1"]]]).terminal("title"))
    say()
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in [*out.splitlines(), *err.splitlines()]]
    assert found[0]["message"].startswith('a "quoted" \\ text') and len(found[0]["message"]) > 300
    assert {"title", "loss [1.5]", "it failed"} <= {each["message"].strip() for each in found}
    assert all(each["step"] == 40 and each["host"] == socket.gethostname() for each in found)
    assert [each["level"] for each in found][-2:] == ["info", "error"]


@pytest.mark.parametrize("level,said", [("debug", 2), ("info", 2), ("warning", 1), ("error", 1)])
def test_a_level_leaves_out_those_below(level, said, capsys, monkeypatch):
    monkeypatch.setenv("LM2_LOG_LEVEL", level)
    say()
    out, err = capsys.readouterr()
    assert bool(out) + bool(err) == said and err


def test_what_is_written_to_a_file_is_plain(monkeypatch):
    monkeypatch.setenv("LM2_LOG", "json")
    file = io.StringIO()
    Console(file=file).print("text")
    assert file.getvalue() == "text\n"


@pytest.mark.parametrize("variable", ["LM2_LOG", "LM2_LOG_LEVEL"])
def test_another_form_is_refused(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "xml")
    assert main(["configs"]) == 2
    assert f"{variable} is 'xml'; it must be one of" in capsys.readouterr().err
