"""`lm2 data tokenize`: documents of every kind of file, and shards that depend on them alone."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import shard_cases

from lm2_jax import cli
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import manifest as manifests
from lm2_jax.data.shards import reading, tokenizing
from lm2_jax.data.text import documents
from lm2_jax.data.text.documents import Document
from lm2_jax.errors import RunError, UserError

ROOT = Path(__file__).parents[1]
ROWS = [{"text": "One text. ⌢"}, {"prompt": "Two?", "completion": " Two."}, {"text": "Three"}]
DOCUMENTS = [Document("One text. ⌢"), Document(" Two.", "Two?"), Document("Three")]


def content(folder):
    """{name: bytes} of everything but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def of_columns(rows):
    return {name: [row.get(name) for row in rows] for name in documents.COLUMNS}


def test_every_kind_of_file_holds_the_same_documents(tmp_path):
    import pyarrow
    from pyarrow import ipc, parquet

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(("\ufeff" + lines).encode()))
    with pyarrow.output_stream(str(tmp_path / "d.jsonl.zst"), compression="zstd") as file:
        file.write(lines.encode())
    table = pyarrow.table(of_columns(ROWS))
    parquet.write_table(table, tmp_path / "e.parquet")
    folder = tmp_path / "saved_to_disk"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    with ipc.new_stream(folder / "data-00000-of-00002.arrow", table.schema) as writer:
        writer.write_table(table.slice(0, 2))
    with ipc.new_file(folder / "data-00001-of-00002.arrow", table.schema) as writer:
        writer.write_table(table.slice(2))
    for name in ("a.jsonl", "b.json", "c.jsonl.gz", "d.jsonl.zst", "e.parquet"):
        assert list(documents.read(tmp_path / name)) == DOCUMENTS, name
    found = documents.find([folder])
    assert [row for path in found for row in documents.read(path)] == DOCUMENTS
    (tmp_path / "whole.txt.gz").write_bytes(gzip.compress(lines.encode()))
    assert list(documents.read(tmp_path / "whole.txt.gz")) == [Document(lines)]


def test_sources_are_files_folders_and_patterns_in_their_order(tmp_path):
    for name in ("b/2.txt", "b/1.jsonl", "a/3.txt", "a/notes.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = documents.find([tmp_path / "c.txt", tmp_path / "b", f"{tmp_path}/a/*"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "c.txt", "b/1.jsonl", "b/2.txt", "a/3.txt"]


@pytest.mark.parametrize("name,bytes_,wanted", [
    ("x.md", b"", "of an unknown kind"), ("x.parquet.gz", b"", "of an unknown kind"),
    ("x.jsonl", b'{"text": 3}\n', 'x.jsonl:1: expected a string "text"'),
    ("x.jsonl", b'{"prompt": "a"}\n', "x.jsonl:1: expected"), ("x.txt", b"\xff", "not UTF-8"),
    ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "not a whole gzip file"),
    ("x.jsonl.zst", b"no zstd", "not a whole zstd file"),
    ("x.parquet", b"", "x.parquet is not a readable parquet file"),
    ("x.arrow", b"ARROW", "x.arrow is not a readable Arrow file"),
])
def test_what_cannot_be_read_is_named(tmp_path, name, bytes_, wanted):
    (tmp_path / name).write_bytes(bytes_)
    with pytest.raises(UserError, match=wanted) as error:
        shard_cases.make([tmp_path / name], tmp_path / "out")
    assert "\n" not in str(error.value)


def test_missing_sources_and_several_splits_are_refused(tmp_path):
    with pytest.raises(UserError, match="no texts at .*/none"):
        documents.find([tmp_path / "none"])
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="several splits; name one of its folders: test"):
        documents.find([tmp_path])


@pytest.mark.parametrize("vocab_size,dtype", [(400, "uint16"), (2**16 + 1, "uint32")])
def test_a_record_is_the_document(tmp_path, monkeypatch, vocab_size, dtype):
    monkeypatch.setattr(tokenizers.Tokenizer, "vocab_size", vocab_size)
    rows = ["Ein Satz – ⌢.", {"prompt": "Two?", "completion": " Two."}, "", "half \ud800 of it"]
    manifest = shard_cases.make([shard_cases.write(tmp_path / "x.jsonl", rows)], tmp_path / "out")
    t = tokenizers.load(tmp_path / "out")
    found = reading.open_split(tmp_path / "out", "train", t)
    assert manifest == found.manifest and manifest.job.dtype == dtype and manifest.empty == 1
    assert [shard.tokens for shard in found.shards] == [found.index(0)["tokens"].sum()]
    expected = [("Ein Satz – ⌢.", 0), ("Two? Two.", len(t.encode("Two?"))),
                ("half \ufffd of it", 0)]
    for number, (text, prompt) in enumerate(expected):
        tokens, given = found[number]
        assert tokens.dtype == np.int32 and given == prompt
        whole = t.encode("Two?") + t.encode(" Two.") if prompt else t.encode(text)
        assert tokens.tolist() == [*whole, t.end_id]
    assert found.index(0)["bytes"].tolist() == [len(part.encode()) for part in (
        "Ein Satz – ⌢.", " Two.", "half \ufffd of it")]
    assert found.index(0)["words"].tolist() == [4, 1, 4]


def test_documents_are_held_out_by_their_content(tmp_path):
    rows = shard_cases.texts(5, 300, 2)
    splits = []
    for name, order in (("one", rows), ("other", [*rows[::-1], *rows])):
        source = shard_cases.write(tmp_path / f"{name}.jsonl", order)
        shard_cases.make([source], tmp_path / name, held_out=0.3, shard_characters=5000)
        t = tokenizers.load(tmp_path / name)
        splits.append([{found[i][0].tobytes() for i in range(len(found))} for found in (
            reading.open_split(tmp_path / name, split, t) for split in manifests.SPLITS)])
    assert splits[0] == splits[1]
    train, held_out = splits[0]
    assert not train & held_out and len(train | held_out) == 300
    assert 300 * 0.3 - 3 * 8 < len(held_out) < 300 * 0.3 + 3 * 8  # three standard deviations


def fail_after(monkeypatch, count):
    """The machine is gone after so many chunks."""
    tokenize, left = tokenizing._tokenize, iter(range(count))

    def once(chunk):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return tokenize(chunk)

    monkeypatch.setattr(tokenizing, "_tokenize", once)


def test_resumed_shards_are_those_of_an_uninterrupted_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "CHUNK", 1000)
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 60))
    options = dict(held_out=0.2, shard_characters=4000)
    shard_cases.make([source], tmp_path / "whole", **options)
    expected = content(tmp_path / "whole")
    assert len([name for name in expected if name.startswith("train-")]) > 6
    for count in (0, 1, 7, 16):
        out = tmp_path / f"resumed_{count}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            fail_after(patch, count)
            shard_cases.make([source], out, **options)
        assert not (out / manifests.FILE).exists()
        with pytest.raises(UserError, match="manifest.json is missing"):
            reading.open_split(out, "train", tokenizers.load(shard_cases.words()))
        parts = sorted(out.glob("part-*.json"))
        if parts:  # a shard that was damaged meanwhile is made again; the others are not
            kept = {path: path.stat().st_mtime_ns for path in out.glob("train-*.array_record")}
            damaged = min(kept)
            damaged.write_bytes(damaged.read_bytes()[:-1])
        shard_cases.make([source], out, **options)
        assert content(out) == expected
        if parts:
            done = {path.stem.replace("part", "train") for path in parts} - {damaged.stem}
            assert done == {path.stem for path, time_ in kept.items()
                            if path.stat().st_mtime_ns == time_}
    shard_cases.make([source], tmp_path / "whole", **options)  # once more: nothing to do
    assert content(tmp_path / "whole") == expected


def test_a_folder_of_other_shards_is_refused(tmp_path, monkeypatch):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 60))
    shard_cases.make([source], tmp_path / "done")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_after(patch, 0)
        shard_cases.make([source], tmp_path / "begun")
    for folder, wanted in (("done", "another tokenized corpus"), ("begun", r"\(other held_out\)")):
        with pytest.raises(UserError, match=wanted):
            shard_cases.make([source], tmp_path / folder, held_out=0.5)
    shard_cases.write(source, shard_cases.texts(2, 60))
    with pytest.raises(UserError, match=r"\(other sources\)"):
        shard_cases.make([source], tmp_path / "begun")


@pytest.mark.parametrize("options,wanted", [
    (dict(held_out=1.1), "--held-out is 1.1"), (dict(shard_characters=0), "--shard-characters"),
    (dict(end="<nothing>"), "--end is '<nothing>'"), (dict(tokenizer="none.json"), "no tokenizer"),
])
def test_options_that_cannot_be_used_are_refused(tmp_path, options, wanted):
    source = shard_cases.write(tmp_path / "x.jsonl", ["text"])
    with pytest.raises(UserError, match=wanted):
        shard_cases.make([source], tmp_path / "out", **options)


def test_a_tokenizer_is_trained_on_the_sources_and_ends_documents_as_told(tmp_path):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 30))
    shard_cases.make([source], tmp_path / "out", "bpe", vocab_size=300, end="<answer>")
    t = tokenizers.load(tmp_path / "out")
    assert t.vocab_size == 300
    tokens, _ = reading.open_split(tmp_path / "out", "train", t)[0]
    assert tokens[-1] == t.answer_id and t.decode(tokens) == shard_cases.texts(1, 30)[0]


def test_a_worker_that_dies_is_named(tmp_path, monkeypatch):
    def dies(*args):
        raise tokenizing.BrokenProcessPool

    monkeypatch.setattr(tokenizing, "_tokenize", dies)
    source = shard_cases.write(tmp_path / "x.jsonl", ["text"])
    with pytest.raises(RunError, match="a tokenizing process died"):
        shard_cases.make([source], tmp_path / "out")


@pytest.mark.processes
def test_processes_and_a_kill_change_no_byte(tmp_path):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 6000, 40))
    options = dict(held_out=0.1, shard_characters=400_000)
    shard_cases.make([source], tmp_path / "whole", **options)
    command = [sys.executable, "-m", "lm2_jax.cli", "data", "tokenize", str(source),
               f"--tokenizer={shard_cases.words()}", f"--out={tmp_path / 'killed'}",
               "--held-out=0.1", "--shard-characters=400000", "--processes=2"]
    killed = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    parts = tmp_path / "killed"
    while len(list(parts.glob("part-*.json"))) < 2 and killed.poll() is None:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert list(parts.glob("part-*.json")) and not (parts / manifests.FILE).exists()
    while subprocess.run(["pgrep", "-s", str(killed.pid)], capture_output=True).stdout:
        time.sleep(0.05)  # the workers end by themselves
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "parts are there already" in done.stdout
    assert content(parts) == content(tmp_path / "whole")


def test_progress_counts_the_sources(tmp_path):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 30))
    out, seen = tmp_path / "out", []
    words = tokenizers.load(shard_cases.words())
    job = tokenizing.make_job([source], words, end=words.end_id, held_out=0.0,
                              shard_characters=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "ProcessPoolExecutor", shard_cases.InProcess)
        done = tokenizing.begin(out, job)
        words.save(out / "tokenizer.json")
        tokenizing.run(out, job, done, 1, lambda *values: seen.append(values))
    reads, tokens = zip(*seen, strict=True)
    assert list(reads) == sorted(reads) and 0.5 < reads[-1] / source.stat().st_size <= 1
    assert tokens[-1] == manifests.read(out).total("train", "tokens")


def test_the_command_has_help_and_writes_shards(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["data", "tokenize", "--help"])
    assert "--held-out FRACTION" in capsys.readouterr().out
    monkeypatch.setattr(tokenizing, "ProcessPoolExecutor", shard_cases.InProcess)
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 20))
    command = ["data", "tokenize", str(source), f"--tokenizer={shard_cases.words()}",
               f"--out={tmp_path / 'out'}"]
    assert cli.main([*command, "--held-out=0.5"]) == 0
    assert re.search(r"held_out: \d+ documents, \d[\d,]* tokens in 1 shards", " ".join(
        capsys.readouterr().out.split()))
    assert cli.main(command) == 2 and "another tokenized corpus" in capsys.readouterr().err
    (index,) = (tmp_path / "out").glob("train*.index.npy")
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert cli.main([*command, "--held-out=0.5"]) == 2
    assert f"{index} is not that of the manifest" in capsys.readouterr().err
