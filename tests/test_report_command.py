"""`lm2 report` from the command line: what it prints, and what it refuses in one line."""

import dataclasses
import re

import pytest
import reports
from reports import TEN, report

from lm2_jax.cli import main
from lm2_jax.eval.results import read_results, write_results

run = reports.run


def command(*arguments):
    """The exit status; argparse leaves by an exception."""
    try:
        return main(["report", *map(str, arguments)])
    except SystemExit as error:
        return error.code


def test_command_prints_the_table_and_the_paths(tmp_path, run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert command(run("a", tasks=TEN), f"--out={tmp_path / 'out'}", "--names=mine",
                   "--metric=accuracy", "--paper") == 0
    out = capsys.readouterr().out
    assert "the benchmark's metric, %" in out and "each task: in report.md" in out
    for model in ("mine", "constant answer", "LM2-1.7B (paper)"):
        assert re.search(rf"^(?:0k)? +{re.escape(model)} +\d+\.\d ", out, flags=re.MULTILINE)
    assert out.splitlines()[-3:] == [str(tmp_path / "out" / name) for name in (
        "report.md", "accuracy.png", "capabilities.png")]


def test_terminal_shows_the_tasks_where_they_fit(tmp_path, run):
    folder = run("a")
    assert " qa2 " in report(tmp_path, folder, width=80)[1]
    assert " qa2 " not in report(tmp_path, folder, width=40)[1]


def test_command_has_help(capsys):
    assert command("--help") == 0
    out = capsys.readouterr().out
    assert "usage: lm2 report" in out and "--config" not in out
    for text in ("--out FOLDER", "--paper", "--names A,B", "exact_match,accuracy", "report.md"):
        assert text in out


def break_results(folder):
    (folder / "eval" / "results.json").write_text("[]")


def break_provenance(folder):
    (folder / "eval" / "provenance.json").write_text("{}")


def break_config(folder):
    (folder / "config.json").write_text('{"sed": 3}')


def move_results(folder):
    (folder / "eval" / "results.json").rename(folder / "results.json")


@pytest.mark.parametrize("spoil,wanted", [
    (lambda folder: (folder / "config.json").unlink(), ["holds no run", "lm2 train --config="]),
    (lambda folder: (folder / "eval" / "results.json").unlink(), ["not evaluated", "lm2 eval "]),
    (break_results, ["no results with the memory carried", "lm2 eval --config="]),
    (break_provenance, ["provenance.json is not the provenance", "lm2 eval --config="]),
    (break_config, ["config.json is not a config", "did you mean seed?"]),
    (move_results, ["has results.json and no provenance.json"])])
def test_a_workdir_that_cannot_be_read_is_one_line(tmp_path, run, capsys, spoil, wanted):
    folder = run("spoilt")
    spoil(folder)
    assert command(run("good", train={"num_steps": 7}), folder, f"--out={tmp_path / 'out'}") == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("lm2 report: ") and str(folder) in line
    assert all(text in line for text in wanted) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments,wanted", [
    ([], ["WORKDIR"]),
    (["a", "--metric=f1"], ["--metric", "f1", "exact_match", "accuracy"]),
    (["a", "--fast"], ["unknown argument --fast", "lm2 report --help"]),
    (["a", "--config.seed=1"], ["unknown argument --config.seed=1", "lm2 report --help"]),
    (["a", "--names=x,y"], ["--names has 2 names", "for 1 models", "a"]),
    (["a", "a"], ["a and a are runs of the same config and seed (0)"]),
    (["nowhere"], ["nowhere holds no run"]),
    (["a", "fewer"], ["fewer lacks qa1 4k carried", "lm2 eval --config=... --workdir=fewer"])])
def test_mistakes_are_one_line(run, capsys, tmp_path, monkeypatch, arguments, wanted):
    run("a")
    run("fewer", lengths=("0k", "1k"), seed=1)
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("lm2 report: ") and all(text in line for text in wanted)
    assert not (tmp_path / "report").exists()


def test_an_unknown_metric_is_refused(tmp_path, run):
    with pytest.raises(ValueError, match="metric is 'f1'; it must be one of exact_match, accuracy"):
        report(tmp_path, run("a"), metric="f1")


@pytest.mark.parametrize("metric", ["exact_match", "accuracy"])
def test_tasks_without_benchmark_accuracy_are_shown(tmp_path, run, metric):
    folders = [run("a", tasks=TEN),
               run("b", tasks=TEN, base=0.8, model={"vocab_size": 50, "mlp_dim": 64})]
    for folder in folders:
        rows = read_results(folder / "eval")
        niah = [dataclasses.replace(row, task="niah", accuracy=None) for row in rows[:3]]
        write_results(folder / "eval", [*rows, *niah])
    text, _ = report(tmp_path, *folders, metric=metric)
    for name in ("a", "b", "constant answer"):
        line = reports.line_of(text, "1k", name)
        assert (line["niah"] == "-") == (metric == "accuracy" and name != "constant answer")
        assert line["qa1"] != "-" != line["Avg"]
    only = [run(name, tasks=("qa1",), model={"vocab_size": 50, "mlp_dim": size}) for name, size in
            (("c", 70), ("d", 80))]
    for folder in only:
        write_results(folder / "eval", [dataclasses.replace(row, task="niah", accuracy=None)
                                        for row in read_results(folder / "eval")])
    assert "niah" in report(tmp_path, *only, metric=metric)[0]
