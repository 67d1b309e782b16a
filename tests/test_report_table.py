"""The tables of `lm2 report`: a block a length, a row a model, seeds of one model together."""

import json
import shutil

import numpy as np
import pytest
import reports
from reports import LENGTHS, TEN, line_of, rate, report, table_of

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.config import files
from lm2_jax.eval import results
from lm2_jax.eval.metrics import LABELS, babilong_correct
from lm2_jax.report.comparison import never_right

run, drawn = reports.run, reports.drawn


# The table.

def test_one_block_a_length_with_a_row_for_each_model_and_the_constant(tmp_path, run):
    folders = run("lm2", 0.9), run("llama", 0.6, model={"vocab_size": 50, "num_layers": 2})
    text, _ = report(tmp_path, *folders)
    assert [(row["length"], row["model"]) for row in table_of(text, "length")] == [
        (length, model) for length in LENGTHS for model in ("lm2", "llama", "constant answer")]
    for length in LENGTHS:
        for model, base in [("lm2", 0.9), ("llama", 0.6)]:
            row, rates = line_of(text, length, model), [rate(t, length, base) for t in TEN[:2]]
            assert [row["qa1"], row["qa2"], row["Avg"]] == [
                f"{100 * value:.1f}" for value in (*rates, np.mean(rates))]
            assert (row["seeds"], row["n"]) == ("1", "100")
        constant = line_of(text, length, "constant answer")
        assert [constant[c] for c in ("qa1", "qa2", "Avg", "n")] == ["20.0", "20.0", "20.0", ""]


def test_long_lengths_are_one_block_of_those_that_all_have(tmp_path, run):
    folders = (run("a", lengths=("4k", "8k", "16k", "32k")), run("b", 0.8, lengths=("8k", "16k"),
               seed=1, train={"num_steps": 7}), run("c", lengths=("4k",), train={"num_steps": 8}))
    text, _ = report(tmp_path, *folders)
    expected = np.mean([rate("qa1", length, 0.9) for length in ("8k", "16k")])
    assert line_of(text, ">= 8k", "a")["qa1"] == f"{100 * expected:.1f}"
    assert ">= 8k: mean over 8k, 16k; 32k left out" in text
    assert {row["model"] for row in table_of(text, "length") if row["length"] == ">= 8k"} == {
        "a", "b", "constant answer"}


def test_long_lengths_that_none_share_stand_alone(tmp_path, run):
    text, _ = report(tmp_path, run("a", lengths=("8k",)),
                     run("b", lengths=("16k",), train={"num_steps": 7}))
    assert [row["length"] for row in table_of(text, "length")] == 2 * ["8k"] + 2 * ["16k"]


def test_averages_are_over_common_tasks(tmp_path, run):
    text, _ = report(tmp_path, run("a", tasks=("qa10", "qa2")),
                     run("b", tasks=("qa2",), train={"num_steps": 7}))
    assert list(line_of(text, "1k", "a"))[2:5] == ["qa2", "qa10", "Avg"]
    row = line_of(text, "1k", "a")
    assert row["Avg"] == row["qa2"] != row["qa10"] and line_of(text, "1k", "b")["qa10"] == "-"
    assert "Avg: over the tasks that every model has, qa2." in text


def test_the_control_with_memory_wiped_has_a_row(tmp_path, run):
    text, _ = report(tmp_path, run("a", memory=("carried", "reset"),
                                   model={"vocab_size": 50, "memory": {"num_layers": 1}}),
                     run("llama", memory=("carried", "reset")))
    assert line_of(text, "1k", "a, memory wiped")["qa1"] == f"{100 * rate('qa1', '1k', 0.4):.1f}"
    assert "memory wiped: the same weights" in text and "llama, memory wiped" not in text


def test_a_task_without_the_benchmarks_metric_has_a_dash(tmp_path, run, drawn, monkeypatch):
    def read_results(folder):
        rows = results.read_results(folder)
        for row in rows:
            if row.task == "qa21":
                object.__setattr__(row, "accuracy", None)
        return rows

    monkeypatch.setattr(reports.job, "read_results", read_results)
    text, _ = report(tmp_path, run("a", tasks=("qa1", "qa21")), metric="accuracy")
    row = line_of(text, "1k", "a")
    assert row["qa21"] == "-" and row["Avg"] == row["qa1"]
    assert "qa21" not in drawn["accuracy.png"].axes[0].get_title(loc="left")


def test_metric(tmp_path, run):
    folder = run("a", tasks=("qa1", "qa7"))
    exact, _ = report(tmp_path, folder)
    official, _ = report(tmp_path, folder, metric="accuracy")
    assert line_of(official, "1k", "a")["qa1"] == "1.0" != line_of(exact, "1k", "a")["qa1"]
    assert line_of(official, "1k", "constant answer")["qa1"] == "20.0"
    assert "qa7†" in official and "† qa7: the benchmark's metric never counts 'none'" in official
    assert "†" not in exact


def test_never_right_is_what_the_metric_says():
    assert {task: never_right(task) for task in LABELS if never_right(task)} == {"qa7": ["none"]}
    assert not babilong_correct("qa7", "none", "none", "") and never_right("other") == []


# Seeds.

def test_seeds_are_grouped_with_mean_and_range(tmp_path, run):
    folders = [run(f"lm2_{seed}", base, seed=seed, model={"vocab_size": 50 + seed},
                   train={"eval_every_steps": seed})
               for seed, base in enumerate([0.9, 0.8, 0.85])]
    text, _ = report(tmp_path, *folders, run("other", train={"num_steps": 7}), names=["A", "B"])
    low, mean, high = (100 * rate("qa1", "1k", base) for base in (0.8, 0.85, 0.9))
    row = line_of(text, "1k", "A")
    assert row["qa1"] == f"{mean:.1f} ({low:.1f}-{high:.1f})" and row["seeds"] == "3"
    runs = {row["model"]: row for row in table_of(text, "model")}
    assert runs["A"]["seeds"] == "0, 1, 2" and runs["B"]["seeds"] == "0"
    assert runs["A"]["workdirs"] == ", ".join(map(str, folders))


def test_averages_of_seeds_are_of_whole_runs(tmp_path, run):
    """The range of the average is that of the runs' averages, not of their cells."""
    text, _ = report(tmp_path, run("s0", 0.9), run("s1", 0.8, seed=1))
    ends = [100 * np.mean([rate(task, "1k", base) for task in TEN[:2]]) for base in (0.8, 0.9)]
    assert line_of(text, "1k", "s0")["Avg"] == "{:.1f} ({:.1f}-{:.1f})".format(
        np.mean(ends), *ends)


@pytest.mark.parametrize("difference,same", [
    ({"seed": 1}, True),
    ({"seed": 1, "checkpoint": {"every_steps": 9}, "data": {"num_workers": 3}}, True),
    ({"seed": 1, "model": {"vocab_size": 51}}, True),
    ({"seed": 1, "train": {"learning_rate": 0.5}}, False),
    ({"seed": 1, "model": {"vocab_size": 50, "memory": {"num_layers": 1}}}, False),
    ({"seed": 1, "eval": {"num_samples": 7}}, False),
    ({"seed": 1, "eval": {"seed": 7}}, False)], ids=str)
def test_what_makes_a_group(tmp_path, run, difference, same):
    text, _ = report(tmp_path, run("a"), run("b", **difference))
    assert len(table_of(text, "model")) == 2 - same
    assert ("One model only." in text) == same


def test_another_vocabulary_follows_from_the_seed_only_if_it_was_trained(tmp_path, run):
    for tokenizer, count in [("word", 1), ("mine.json", 2)]:
        text, _ = report(tmp_path, *(
            run(f"{tokenizer}_{seed}", seed=seed, model={"vocab_size": 50 + seed},
                data={"tokenizer": tokenizer}) for seed in (0, 1)))
        assert len(table_of(text, "model")) == count


def test_the_evaluation_counts_as_it_was_made(tmp_path, run):
    facts = {"step": 20, "parameters": 1_234_567, "config": {"eval": {"num_samples": 7}}}
    folders = (run("a", provenance=facts), run("b", seed=1, provenance=facts),
               run("c", seed=2, provenance=facts | {"step": 30}), run("d", seed=3))
    text, _ = report(tmp_path, *folders)
    runs = {row["model"]: row for row in table_of(text, "model")}
    assert runs.keys() == {"a", "c", "d"} and runs["a"]["seeds"] == "0, 1"
    assert (runs["a"]["step"], runs["a"]["parameters"]) == ("20", "1,234,567")
    assert (runs["c"]["step"], runs["d"]["step"], runs["d"]["parameters"]) == ("30", "-", "-")
    assert table_of(text, "key") == [{"key": "eval.num_samples", "a": "7", "c": "7", "d": "100"}]


def test_a_copied_eval_folder_is_read_like_its_workdir(tmp_path, run):
    """As configs/results/ has them: what was trained stands in provenance.json."""
    kept = []
    for seed in (0, 1):
        config = {"seed": seed, "train": {"learning_rate": 0.5}, "model": {"vocab_size": 50}}
        folder = run(f"a{seed}", **config, provenance={
            "step": 20, "parameters": 9, "config": config | {"eval": {"num_samples": 7}}})
        kept.append(tmp_path / f"kept{seed}")
        shutil.copytree(folder / "eval", kept[-1])
    whole, _ = report(tmp_path, tmp_path / "a0", tmp_path / "a1", names=["a"])
    assert report(tmp_path, *kept, names=["a"])[0] == whole.replace(
        str(tmp_path / "a"), str(tmp_path / "kept"))
    assert report(tmp_path, tmp_path / "a0", kept[1], names=["a"])[0].count("| a |") == 4


def test_an_evaluation_that_is_not_finished_is_told_in_one_line(tmp_path, run, drawn):
    folders = run("a"), run("b", train={"num_steps": 7})
    said = (f"The evaluation of {folders[1]} is not finished; the same lm2 eval command continues "
            "it.")
    assert not any(said in text for text in report(tmp_path, *folders, width=500))
    (folders[1] / "eval" / "unfinished.jsonl").write_text('"identity"\n')
    for facts in (None, {"config": files.to_dict(workdirs.stored_config(folders[1]))}):
        if facts:
            (folders[1] / "eval" / "provenance.json").write_text(json.dumps(facts))
        assert all(said in text for text in report(tmp_path, *folders, width=500))


def test_what_differs_is_listed_by_key(tmp_path, run):
    text, _ = report(tmp_path, run("a"), run("b", seed=3, train={"learning_rate": 0.5}, data={
        "curriculum": [[0, 1], [5, 8]]}))
    assert table_of(text, "key") == [
        {"key": "data.curriculum", "a": "[[0, 1]]", "b": "[[0, 1], [5, 8]]"},
        {"key": "train.learning_rate", "a": "0.001", "b": "0.5"}]
    assert [row["longest trained row (tokens)"] for row in table_of(text, "model")] == [
        "64", "512"]


def test_names(tmp_path, run):
    folders = run("x/run"), run("y/run", train={"num_steps": 7}), run("z", train={"num_steps": 8})
    text, _ = report(tmp_path, *folders)
    assert [row["model"] for row in table_of(text, "model")] == [*map(str, folders[:2]), "z"]
    text, printed = report(tmp_path, *folders, names=["[red]p|q", "r", "s"])
    assert r"| [red]p\|q |" in text and " [red]p|q " in printed
    for names in (["a", "b"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="--names has 2 names .* for 3 models"):
            report(tmp_path, *folders, names=names)
