"""An evaluation's folder: of one evaluation at any moment, whatever was there and wherever it ends.

The model is a stand-in that repeats the last token; `test_cli.py` has the real ones.
"""

import io
import json
import re
from functools import cache
from types import SimpleNamespace

import jax
import pytest

from lm2_jax import partition
from lm2_jax.commands import evaluate as evaluation
from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.eval import babilong_evaluator
from lm2_jax.eval.results import read_results
from lm2_jax.runtime import progress as bar
from lm2_jax.runtime.console import Console

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STORY = "1 Mary went to the garden.\n2 John went to the hallway.\n3 Where is Mary?\tgarden\t1\n"
OTHERS = ("gates.json", "history.jsonl", "mine.csv", "qa1_4k_mine.csv", "reset/mine.json",
          "qa1_4k_instruction_no_examples_no_post_prompt_no_chat_template_yes.csv")

MESH = partition.make_mesh({"data": 1}, jax.devices()[:1])


class Killed(Exception):
    pass


class Echo:
    """Answers with the last token of the prompt, for so many batches; reads a token a second."""

    patience, now = 0, 0.0

    def __init__(self, model, *_, **__):
        self.model = model
        if Echo.patience < 0:
            raise Killed

    def answer(self, prompts, *_, progress, **__):
        if not Echo.patience:
            raise Killed
        Echo.patience -= 1
        Echo.now += sum(map(len, prompts))
        progress(sum(map(len, prompts)))
        return [prompt[len(prompt) - 1:].tolist() for prompt in prompts]


@cache
def tokens():
    return corpus.make_tokenizer(DataConfig(background_sentences=200), 0)


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Evaluates, for so many batches; returns what was printed. There are two a cell."""
    monkeypatch.setattr(babilong_evaluator, "Engine", Echo)
    monkeypatch.setattr(bar, "time", SimpleNamespace(perf_counter=lambda: Echo.now))
    for name in ("plot_curves", "plot_heat_map"):
        monkeypatch.setattr(evaluation.plots, name, lambda *_, **__: None)

    def run(step, batches=1000, params=None, **changes):
        values = {"lengths": ("0k", "64"), "num_samples": 4, "batch_size": 2} | changes
        config = Config(model=ModelConfig(), data=DataConfig(background_sentences=200),
                        eval=EvalConfig(**values))
        console = Console(file=io.StringIO(), width=100)
        Echo.patience = batches
        evaluator = evaluation.BabilongEvaluator(config, tokens(), MESH)
        evaluation.report([evaluator], params or {}, step, tmp_path, console)
        return console.file.getvalue()

    return run


def predictions(folder):
    """(folder, task, length) of every CSV that has its JSON."""
    return {(path.parent.name, *path.name.split("_")[:2])
            for path in folder.rglob("qa*_template_no.csv") if path.with_suffix(".json").exists()}


def stored(folder):
    """What a reader pairs: the rows, and step and lengths of what made them."""
    facts = json.loads((folder / "provenance.json").read_text())
    return ([(row.length, row.memory) for row in read_results(folder)], facts["step"],
            tuple(facts["config"]["eval"]["lengths"]))


def test_fewer_samples_at_long_lengths(tmp_path, evaluate):
    evaluate(7, max_samples=(9, 3), reset_up_to="0k")
    rows = read_results(tmp_path / "eval")
    assert [(row.length, row.memory, row.n) for row in rows] == [
        ("0k", "carried", 4), ("0k", "reset", 4), ("64", "carried", 3)]


def test_files_of_earlier_evaluations_go_and_no_others(tmp_path, evaluate):
    folder = tmp_path / "eval"
    evaluate(7)
    for name in OTHERS:
        (folder / name).write_text("kept")
    wiped = {("reset", "qa1", "0k"), ("reset", "qa1", "64")}
    assert predictions(folder) == {("eval", "qa1", "0k"), ("eval", "qa1", "64"), *wiped}
    evaluate(7, lengths=("0k",), memory=("carried",))
    assert predictions(folder) == {("eval", "qa1", "0k")}
    assert not [path for path in (folder / "reset").iterdir() if path.name != "mine.json"]
    assert all((folder / name).read_text() == "kept" for name in OTHERS)


@pytest.mark.parametrize("batches", [0, 1, 2, 5])
def test_rows_never_stand_beside_what_made_others(tmp_path, evaluate, batches):
    folder = tmp_path / "eval"
    evaluate(7)
    with pytest.raises(Killed):
        evaluate(8, batches, lengths=("64", "80"))
    if batches < 2:  # no cell is finished: the earlier results are there, with their provenance
        cells = [(length, memory) for length in ("0k", "64") for memory in ("carried", "reset")]
        assert stored(folder) == (cells, 7, ("0k", "64")) and len(predictions(folder)) == 4
    else:
        cells = [("64", "carried"), ("64", "reset"), ("80", "carried")][:batches // 2]
        assert stored(folder) == (cells, 8, ("64", "80"))
        assert len(predictions(folder)) == len(cells)


def test_one_that_goes_on_keeps_its_own_files(tmp_path, evaluate):
    folder = tmp_path / "eval"
    with pytest.raises(Killed):
        evaluate(7, 5)
    before = predictions(folder)
    for batches in (-1, 0):  # before anything is written again, and after
        with pytest.raises(Killed):
            evaluate(7, batches)
        assert predictions(folder) == before == {("eval", "qa1", "0k"), ("reset", "qa1", "0k")}
    printed = evaluate(7, 3)  # as many as were left
    assert len(stored(folder)[0]) == len(predictions(folder)) == 4
    lines = re.findall(r"^eval (\d+)/(\d+) tokens  (.*): [01]\.\d+ of (\d)  (\d+) s left$",
                       printed, re.M)
    assert [line[2:4] for line in lines] == [("qa1 64 carried", "2"), ("qa1 64 reset", "2"),
                                             ("qa1 64 reset", "4")]
    assert all(int(total) - int(done) == int(left) for done, total, *_, left in lines)


def test_answers_to_other_contexts_are_not_taken_over(tmp_path, evaluate):
    """Exchanged books, of the same size: the questions are the same, the contexts are not."""
    book, asked = tmp_path / "book.txt", []
    changes = {"lengths": ("64",), "num_samples": 6, "memory": ("carried",),
               "background": str(book)}
    for word in ("autumn", "again", "again"):
        book.write_text(f"It was the {word} that came over the house in the village. " * 50)
        with pytest.raises(Killed):
            evaluate(7, 1, **changes)
        _, *lines = (tmp_path / "eval/unfinished.jsonl").read_text().splitlines()
        asked.append(len(lines))
    assert asked == [1, 1, 2]


@pytest.mark.parametrize("key", ["lengths", "memory"])
def test_an_evaluation_of_nothing_is_skipped_or_refused_at_the_start(tmp_path, evaluate, key):
    evaluate(7)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert evaluate(8, **{key: ()}) == f"eval.{key} is empty: no evaluation\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "no evaluation" in evaluate(8, samples=str(tmp_path), lengths=())  # a folder
    with pytest.raises(UserError, match=f"eval.{key} is empty, so there is nothing to evaluate"):
        evaluation.evaluate(Config(eval=EvalConfig(**{key: ()})), tmp_path / "none")
    assert not (tmp_path / "none").exists()


SAMPLE = {"task": "qa1", "length": "1k", "input": "Mary went to the garden. It was dark.",
          "question": "Where is Mary?", "target": "garden"}


@pytest.mark.parametrize("task", ["niah", "QA1", "my_task.2"])
def test_tasks_that_the_benchmark_does_not_know_have_exact_match_alone(tmp_path, evaluate, task):
    path, folder = tmp_path / "s.jsonl", tmp_path / "eval"
    path.write_text("".join(json.dumps(sample) + "\n"
                            for sample in (SAMPLE | {"task": task}, SAMPLE)))
    printed = evaluate(7, samples=str(path), memory=("carried",))
    found = {row.task: row for row in read_results(folder)}
    assert found[task].accuracy is None and found["qa1"].accuracy == 0
    assert found[task].exact_match == 0 and found[task].unscorable == 0
    assert json.loads((folder / "results.json").read_text())[0]["accuracy"] is None
    assert task in printed
    name = f"{task}_1k_instruction_no_examples_no_post_prompt_no_chat_template_no.csv"
    assert (folder / name).exists()
    evaluate(7, lengths=("0k",))  # its files are known as those of an evaluation
    assert not (folder / name).exists()


@pytest.mark.parametrize(("key", "value"), [
    ("task", "../../qa1"), ("task", "a/b"), ("task", ".hidden"), ("task", "a b"), ("task", "a\n"),
    ("task", "a" * 65), ("length", "4k/.."), ("length", "4_k"), ("length", "\\4k")])
def test_a_file_is_checked_before_anything_is_removed(tmp_path, evaluate, key, value):
    evaluate(7)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SAMPLE) + "\n" + json.dumps(SAMPLE | {key: value}) + "\n")
    with pytest.raises(UserError, match=rf"s.jsonl:2: {key} is .*files are named") as error:
        evaluate(7, samples=str(path))
    assert "\n" not in str(error.value)
    path.unlink()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_tasks_that_the_indices_do_not_name_are_told_in_one_line(tmp_path, evaluate):
    for name in ("qa1_a_test.txt", "qa2_b_test.txt", "qa3_c_test.txt"):
        tmp_path.joinpath(name).write_text(STORY)
    indices = tmp_path / "indices.json"
    indices.write_text('{"qa2": [0, 0, 0, 0]}')
    printed = evaluate(7, tasks=("qa1", "qa2", "qa3"), babi=str(tmp_path), indices=str(indices))
    assert f"{indices} has no indices of qa1, qa3: their samples are drawn\n" in printed
    indices.write_text(json.dumps({task: [0] * 4 for task in ("qa1", "qa2", "qa3")}))
    assert "no indices" not in evaluate(7, tasks=("qa1", "qa2", "qa3"), babi=str(tmp_path),
                                        indices=str(indices))


def test_results_of_another_evaluator_have_a_folder_of_their_own(tmp_path, monkeypatch):
    class Constant:
        name, notes, empty_key = "constant", ["a note"], ""
        config = Config()

        def identity(self, params, step):
            return {"step": step}

        def tokens_to_read(self, journal):
            return 1, 0

        def run(self, params, *, journal=None, progress=None, between=None):
            progress(1, "done")
            yield 0.5, None

        def remove(self, folder):
            folder.joinpath("constant.txt").unlink(missing_ok=True)

        def write(self, folder, results):
            folder.joinpath("constant.txt").write_text(repr(results))

    console, shown = Console(file=io.StringIO(), width=100), []
    monkeypatch.setitem(evaluation._SHOW, "constant", lambda *values: shown.append(values))
    assert evaluation.report([Constant()], {}, 7, tmp_path, console) == [0.5]
    folder = tmp_path / "eval" / "constant"
    assert shown == [([0.5], Constant.config, folder, console)]
    assert {path.name for path in folder.iterdir()} == {"constant.txt", "provenance.json", ".lock"}
    assert "a note" in console.file.getvalue()
