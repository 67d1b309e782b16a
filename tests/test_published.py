"""BABILong as published, in small copies of the folders that its data sets have."""

import gzip
import json
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm2_jax.config import Config, DataConfig, EvalConfig
from lm2_jax.data.babilong import corpus, prompting, published
from lm2_jax.data.babilong.encoder import Encoder
from lm2_jax.data.babilong.samples import read_file
from lm2_jax.data.text import json_file
from lm2_jax.eval.babilong import cells

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

DATA = DataConfig(background_sentences=300, tokenizer="bpe", tokenizer_vocab_size=400)
TASKS, LENGTHS = ("qa1", "qa10"), ("0k", "1k", "1M")


@cache
def tokenizer():
    return corpus.make_tokenizer(DATA, 0)


def sample(task, length, number):
    return {"input": f"Mary went to the kitchen. {task} {length}, {number}.\n\nJohn left.",
            "question": "Where is Mary? ", "target": "kitchen"}


def write_json(path, samples):
    path.write_text(json.dumps(samples))


def write_lines(path, samples):
    lines = "".join(json.dumps(one) + "\n" for one in samples).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def write_parquet(path, samples):
    parquet.write_table(pyarrow.Table.from_pylist(samples), path)


# How a cell is written: (task, length, part) -> path; in how many parts; by what.
LAYOUTS = {
    "babilong": (lambda t, n, i: f"data/{t}/{n}.json", 1, write_json),
    "babilong-1k-samples": (lambda t, n, i: f"{n}/{t}-0000{i}-of-00002.parquet", 2,
                            write_parquet),
    "babilong before": (lambda t, n, i: f"{t}/{n}-0000{i}-of-00003.parquet", 3, write_parquet),
    "lines": (lambda t, n, i: f"{n}/{t}.jsonl", 1, write_lines),
    "packed": (lambda t, n, i: f"{n}/{t}.jsonl.gz", 1, write_lines),
    "converted": (lambda t, n, i: f"{n}/{t}/000{i}.parquet", 3, write_parquet),
    "folders of lines": (lambda t, n, i: f"data/{t}/{n}/{i}.jsonl.gz", 2, write_lines),
    "flat lines": (lambda t, n, i: f"{t}_{n}.jsonl", 1, write_lines),
    "flat list": (lambda t, n, i: f"data/{t}_{n}.json", 1, write_json),
    "flat parquet": (lambda t, n, i: f"{t}_{n}-0000{i}-of-00002.parquet", 2, write_parquet)}


def copy_of(folder, layout, count=6, tasks=TASKS, lengths=LENGTHS):
    where, parts, write = LAYOUTS[layout]
    for task in tasks:
        for length in lengths:
            for part in range(parts):
                path = folder / where(task, length, part)
                path.parent.mkdir(parents=True, exist_ok=True)
                size = count // parts
                write(path, [sample(task, length, part * size + i) for i in range(size)])
    (folder / "README.md").write_text("a card")
    (folder / ".git").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_cell_of_every_layout_is_read_in_order(tmp_path, layout):
    folder = copy_of(tmp_path, layout)
    for task in TASKS:
        for length in LENGTHS:
            found = [one for _, one in published.read(folder, task, length)]
            assert found == [sample(task, length, number) for number in range(6)]


def test_the_data_folder_may_be_named_itself(tmp_path):
    folder = copy_of(tmp_path, "babilong") / "data"
    assert len(list(published.read(folder, "qa1", "1k"))) == 6


OTHER = (st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
         | st.lists(st.text(), max_size=2))
SAMPLES = st.lists(st.fixed_dictionaries({name: st.text() for name in published.COLUMNS},
                                         optional={"more": OTHER}), max_size=8)


@given(SAMPLES, st.sampled_from([write_json, write_lines]), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_json_is_read_whatever_the_texts_and_the_chunks(tmp_path_factory, samples, write, chunk):
    folder = tmp_path_factory.mktemp("published")
    (folder / "1k").mkdir()
    write(folder / "1k" / "qa1.json", samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_file, "_CHUNK", chunk)
        found = [one for _, one in published.read(folder, "qa1", "1k")]
    columns = [{name: one[name] for name in published.COLUMNS} for one in samples]
    assert [{name: one[name] for name in published.COLUMNS} for one in found] == columns


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_asked_for_is_read(tmp_path, layout):
    folder = copy_of(tmp_path, layout)
    where, *_ = LAYOUTS[layout]
    for broken in (("qa1", "1M", 0), ("qa10", "1k", 0)):
        (folder / where(*broken)).write_bytes(b"broken")
    e = EvalConfig(samples=str(folder), lengths=("1k", "0k"), tasks=("qa1",))
    config = Config(data=DATA, eval=e)
    drawn_from = corpus.held_out(config, tokenizer())
    assert drawn_from.sources == () and drawn_from.background is None
    way = prompting.make(e, drawn_from.encoder)
    found = cells(config, drawn_from, way, 2)
    assert list(found) == [("qa1", "1k"), ("qa1", "0k")]
    decode = drawn_from.encoder.tokenizer.decode
    for (task, length), prompts in found.items():
        for number, prompt in enumerate(prompts):
            text = " ".join(sample(task, length, number)["input"].split())
            assert decode(prompt.tokens[:]) == f" {text} Where is Mary?"
            assert (prompt.task, prompt.length) == (task, length)
            assert (prompt.question, prompt.target) == ("Where is Mary?", "kitchen")
        assert len(prompts) == 2
    assert len(cells(config, drawn_from, way, 100)["qa1", "0k"]) == 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_file_tells_its_task_and_length_by_its_path(tmp_path, layout):
    where, *_ = LAYOUTS[layout]
    path = copy_of(tmp_path, layout, count=6) / where("qa10", "1M", 0)
    way = prompting.make(EvalConfig(), Encoder(tokenizer()))
    prompts = read_file(path, way)
    assert {(prompt.task, prompt.length) for prompt in prompts} == {("qa10", "1M")}
    text = " ".join(sample("qa10", "1M", 0)["input"].split())
    assert tokenizer().decode(prompts[0].tokens[:]) == f" {text} Where is Mary?"
    other = path.rename(tmp_path / f"other{''.join(path.suffixes[-2:])}")
    with pytest.raises(ValueError, match=r"(:1|sample 1) has no text under task, length; .*path "
                                         r"may tell task and length, as in qa1_4k.jsonl") as error:
        read_file(other, way)
    assert "\n" not in str(error.value)
    own = {"task": "qa2", "length": "2k"}
    LAYOUTS[layout][2](other, [sample("qa1", "1k", 0) | own])
    assert [(prompt.task, prompt.length) for prompt in read_file(other, way)] == [("qa2", "2k")]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    folder = copy_of(tmp_path, "converted", tasks=("qa1",), lengths=("1k",))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"0000.parquet needs .*pip install 'lm2_jax\[parquet\]'"):
        list(published.read(folder, "qa1", "1k"))


def test_no_more_of_a_file_is_read_than_is_taken(tmp_path):
    path = tmp_path / "1k" / "qa1.json"
    path.parent.mkdir()
    path.write_text(json.dumps([sample("qa1", "1k", i) for i in range(3000)])[:-9] + "broken")
    samples = published.read(tmp_path, "qa1", "1k")
    assert [next(samples)[1] for _ in range(2)] == [sample("qa1", "1k", i) for i in range(2)]
    with pytest.raises(ValueError, match="qa1.json is not a JSON list: "):
        list(samples)


@pytest.mark.parametrize("end", ["", ",", ", \n"])
def test_a_list_cut_between_its_samples_is_not_whole(tmp_path, end):
    path = tmp_path / "1k" / "qa1.json"
    path.parent.mkdir()
    whole = json.dumps([sample("qa1", "1k", i) for i in range(3)])
    path.write_text(whole + "\n")
    assert len(list(published.read(tmp_path, "qa1", "1k"))) == 3
    path.write_text(whole[:-1] + end)
    with pytest.raises(ValueError, match="qa1.json is not a JSON list: "):
        list(published.read(tmp_path, "qa1", "1k"))


@pytest.mark.parametrize(("task", "length", "said"), [
    ("qa1", "2k", "no qa1 at 2k in .*, which has qa1 at 0k, 1M, 1k"),
    ("qa2", "1k", "no qa2 at 1k in .*, which has tasks qa1, qa10")])
def test_a_missing_cell_is_told_with_what_is_there(tmp_path, task, length, said):
    for layout in ("babilong", "babilong-1k-samples"):
        with pytest.raises(FileNotFoundError, match=said) as error:
            list(published.read(copy_of(tmp_path / layout, layout), task, length))
        assert "\n" not in str(error.value) and str(tmp_path / layout) in str(error.value)


def test_a_folder_of_other_things_is_told(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="which has no files such as data/qa1/4k.json"):
        list(published.read(tmp_path, "qa1", "1k"))


def test_the_same_cell_in_two_forms_is_refused(tmp_path):
    copy_of(copy_of(tmp_path, "babilong"), "babilong-1k-samples")
    with pytest.raises(ValueError, match=r"at 1k is twice in .*parquet and .*json\); keep one"):
        list(published.read(tmp_path, "qa1", "1k"))


@pytest.mark.parametrize(("layout", "said"), [
    ("babilong", r"1k.json, sample 1 has no question, only input, target"),
    ("babilong-1k-samples", r"parquet has no column 'question' of strings, only \['input', 't")])
def test_a_missing_column_is_told_with_those_there(tmp_path, layout, said):
    where, _, write = LAYOUTS[layout]
    path = tmp_path / where("qa1", "1k", 0)
    path.parent.mkdir(parents=True)
    write(path, [{"input": "a", "target": "b"}])
    with pytest.raises(ValueError, match=said) as error:
        list(published.read(tmp_path, "qa1", "1k"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("qa1.json", b"[1, 2]", "sample 1 has no input, question, target, only 1"),
    ("qa1.json", b'[{"input": "a"', "is not a JSON list: "),
    ("qa1.json", b'\n{"input": "a"', ":2 is not JSON: Expecting ',' delimiter"),
    ("qa1.json", b'{"input": "a', ":1 is not JSON: Unterminated string"),
    ("qa1.json", b'{"input": "a\\u12g4."}', r":1 is not JSON: Invalid \\uXXXX escape"),
    ("qa1.json", b'{"question": 3e, "input": "a"}', ":1 is not JSON: Expecting ',' delimiter"),
    ("qa1.json", b"\xff\xfe", ":1 is not readable as UTF-8"),
    ("qa1.json", b'["\xff"]', "is not a JSON list: .*(UTF8|utf-8)"),
    ("qa1.jsonl.gz", b"{}", "is not a whole gzip file"),
    ("qa1.json", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("qa1-00000-of-00001.parquet", b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"),
    ("qa1-00000-of-00001.parquet", b"PAR1", "is not a readable parquet file")])
def test_unreadable_files_are_named(tmp_path, name, content, said):
    (tmp_path / "1k").mkdir()
    (tmp_path / "1k" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.* {said}|{name}.*{said}") as error:
        list(published.read(tmp_path, "qa1", "1k"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "said"), [
    (b"[1,,2]", r"is not a JSON list: "),
    (b"[1, 2,]", r"is not a JSON list: "),
    (b'[1] {"input": "a"}', r"is not a JSON list: "),
    (b'{"input": "a"},{"input": "b"}', ":1 is not JSON: Extra data"),
    (b'{"input": "a"}\n,{"input": "b"}', ":2 is not JSON: Expecting value"),
    (b']]]{"input": "a"}', ":1 is not JSON: Expecting value")])
def test_what_is_not_json_is_refused(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        list(published.rows(tmp_path / "a.json"))


MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark, which some editors and spreadsheets write


@pytest.mark.parametrize("layout", ["babilong", "lines", "packed"])
def test_a_byte_order_mark_is_skipped(tmp_path, layout):
    where, _, write = LAYOUTS[layout]
    path = tmp_path / where("qa1", "1k", 0)
    path.parent.mkdir(parents=True)
    write(path, [sample("qa1", "1k", number) for number in range(2)])
    packed = path.suffix == ".gz"
    content = MARK + (gzip.decompress if packed else bytes)(path.read_bytes())
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [one for _, one in published.read(tmp_path, "qa1", "1k")] == [
        sample("qa1", "1k", number) for number in range(2)]
