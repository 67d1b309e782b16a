"""`lm2 train` on data that is cut short, of the wrong kind, or not there: one line, and no run."""

import gzip
import json

import pytest
import runs

from lm2_jax.cli import main

LINES = "".join(json.dumps({"text": f"The river rose by {n} feet in the night. It fell."}) + "\n"
                for n in range(2000))
STORY = "1 Mary moved to the bathroom.\n2 Where is Mary? \tbathroom\t1\n"


def cut_gzip(folder):
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode())[:-700])
    return "background", path, f"{path} is not a whole gzip file"


def cut_line(folder):
    path = folder / "a.jsonl"
    path.write_text(LINES[:-9])
    return "background", path, f"{path}:2000 is not JSON"


def wrong_kind(folder):
    path = folder / "a.zip"
    path.write_bytes(b"PK")
    return "background", path, f"background file {path} is of an unknown kind"


def not_utf8(folder):
    path = folder / "a.txt"
    path.write_bytes(LINES.encode()[:500] + b"\xff")
    return "background", path, f"{path} is not UTF-8"


def cut_story(folder):
    path = folder / "qa1_single-supporting-fact_train.txt"
    path.write_text(STORY * 30 + "1 Mary moved to the bathroom.\n2 Where is Mary? \tbathr")
    return "babi", folder, f"{path}, line 62: expected 'QUESTION?<TAB>ANSWER<TAB>SUPPORT IDS'"


def no_stories(folder):
    return "babi", folder, f"no qa1_*_train.txt in {folder}"


def not_a_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_text('{"version": "1.0"')
    return "tokenizer", path, f"{path} is not a valid tokenizer.json"


@pytest.mark.parametrize("fault", [cut_gzip, cut_line, wrong_kind, not_utf8, cut_story, no_stories,
                                   not_a_tokenizer], ids=lambda fault: fault.__name__)
def test_it_is_named_before_anything_is_trained(tmp_path, capsys, fault):
    (tmp_path / "data").mkdir()
    key, path, said = fault(tmp_path / "data")
    workdir = tmp_path / "run"
    assert main(["train", runs.CONFIG, f"--workdir={workdir}", *runs.SMALL,
                 f"--config.data.{key}={path}"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("lm2 train: ") and said in line
    assert not (workdir / "config.json").exists()
