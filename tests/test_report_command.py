"""`lm2 report`: several evaluated workdirs side by side."""

import io
import json
import math
import re
import shutil
import struct

import numpy as np
import pytest
from rich.console import Console

from lm2_jax import config_file
from lm2_jax.cli import main
from lm2_jax.config import parse_length
from lm2_jax.eval.metrics import LABELS, babilong_correct, wilson
from lm2_jax.eval.results import Row, write_results
from lm2_jax.jobs import comparison as job
from lm2_jax.jobs import workdir as workdirs
from lm2_jax.report import figures, paper
from lm2_jax.report.capabilities import CAPABILITIES, axes_of
from lm2_jax.report.comparison import never_right

LENGTHS = ("0k", "1k", "4k")
TEN = tuple(f"qa{number}" for number in range(1, 11))


def rate(task, length, base):
    """A rate of its own for each cell: less for later tasks and for longer lengths."""
    return round(base - 0.02 * int(task[2:]) - 0.005 * math.log2(parse_length(length) + 1), 4)


@pytest.fixture
def run(tmp_path):
    """Makes an evaluated workdir without training one."""
    def make(name, base=0.9, tasks=("qa1", "qa2"), lengths=LENGTHS, memory=("carried",), n=100,
             provenance=None, **config):
        config = config_file.from_dict({"model": {"vocab_size": 50}} | config)
        workdir = tmp_path / name
        (workdir / "eval").mkdir(parents=True)
        workdirs.store_config(config, workdir)
        write_results(workdir / "eval", [
            Row(task, length, parse_length(length) or 120, 1.0, kind, n,
                rate(task, length, base) - 0.5 * (kind == "reset"), 0.01, 0.2)
            for task in tasks for length in lengths for kind in memory])
        if provenance is not None:
            (workdir / "eval" / "provenance.json").write_text(json.dumps(provenance))
        return workdir
    return make


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn, by file name, instead of written."""
    found = {}
    monkeypatch.setattr(figures, "save", lambda figure, path: found.update({path.name: figure}))
    return found


def report(tmp_path, *folders, width=200, **options):
    """report.md and what was printed."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    job.report(folders, tmp_path / "out", console=console, **options)
    return (tmp_path / "out" / "report.md").read_text("utf-8"), console.file.getvalue()


def table_of(text, first):
    """The Markdown table whose header begins so, as dictionaries; an empty length is the last."""
    lines = text[text.index(f"\n| {first} |") + 1:].split("\n\n")[0].splitlines()
    header, _, *body = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    rows = [dict(zip(header, line, strict=True)) for line in body]
    for above, row in zip(rows, rows[1:], strict=False):
        row[first] = row[first] or above[first]
    return rows


def line_of(text, length, model):
    row, = [row for row in table_of(text, "length")
            if (row["length"], row["model"]) == (length, model)]
    return row


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
    text, _ = report(tmp_path, run("a", memory=("carried", "reset")))
    assert line_of(text, "1k", "a, memory wiped")["qa1"] == f"{100 * rate('qa1', '1k', 0.4):.1f}"


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
                   train={"tensorboard": seed > 0})
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
    ({"seed": 1, "checkpoint": {"every_steps": 9}, "data": {"num_threads": 3}}, True),
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
    said = f"Not finished is the evaluation of {folders[1]}: the same lm2 eval goes on with it."
    assert not any(said in text for text in report(tmp_path, *folders, width=500))
    (folders[1] / "eval" / "unfinished.jsonl").write_text('"identity"\n')
    for facts in (None, {"config": config_file.to_dict(workdirs.stored_config(folders[1]))}):
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


# The figures.

def lines(axes):
    return {str(line.get_label()): np.column_stack(line.get_data()) for line in axes.get_lines()
            if not str(line.get_label()).startswith("_")}


def test_curves(tmp_path, run, drawn):
    report(tmp_path, run("a", 0.9, n=50), run("b", 0.7, train={"num_steps": 7}),
           run("c", 0.6, train={"num_steps": 7}, seed=1))
    axes = drawn["accuracy.png"].axes[0]
    shown = lines(axes)
    tokens = [120, 1024, 4096]
    for label, base in [("a (1 seed): 95 % interval", 0.9),
                        ("b (2 seeds): mean, lowest and highest", 0.65)]:
        means = [np.mean([rate(task, length, base) for task in TEN[:2]]) for length in LENGTHS]
        np.testing.assert_allclose(shown[label], np.column_stack([tokens, means]), atol=1e-9)
    constant, = [points for label, points in shown.items() if label.startswith("constant")]
    np.testing.assert_allclose(constant, np.column_stack([tokens, 3 * [0.2]]))
    assert shown["longest trained length (64 tokens)"][0, 0] == 64
    bars = [np.array(c.get_segments())[1, :, 1] for c in axes.collections]
    middle = np.mean([rate(task, "1k", 0.9) for task in TEN[:2]])
    np.testing.assert_allclose(bars[0], wilson(middle * 100, 100), atol=1e-9)
    np.testing.assert_allclose(bars[1], [np.mean([rate(task, "1k", base) for task in TEN[:2]])
                                         for base in (0.6, 0.7)], atol=1e-9)
    assert axes.xaxis.get_transform().base == 2
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0k\n120", "1k\n1,024", "4k\n4,096"]
    assert any("n = 50 to 100" in text.get_text() for text in axes.texts)


def test_lines_differ_without_colour(tmp_path, run, drawn):
    folders = [run(f"m{i}", 0.9 - i / 20, tasks=TEN, train={"num_steps": i + 1},
                   data={"curriculum": [[0, 1 + i % 3]]}) for i in range(12)]
    report(tmp_path, *folders, paper=True)
    for name, count in [("accuracy.png", 12 + 1 + 5 + 3), ("capabilities.png", 12 + 1)]:
        # Dashes alone: matplotlib gives them as "--" whatever their pattern.
        looks = {(line.get_marker(), line.get_linestyle(), str(line._unscaled_dash_pattern))
                 for line in drawn[name].axes[0].get_lines()
                 if not str(line.get_label()).startswith("_")}
        assert len(looks) == count


def test_each_longest_trained_length_is_marked(tmp_path, run, drawn):
    report(tmp_path, run("a"), run("b", train={"num_steps": 7}),
           run("c", data={"curriculum": [[0, 1], [5, 8], [9, 4]]}))
    shown = lines(drawn["accuracy.png"].axes[0])
    assert shown["longest trained length of a, b (64 tokens)"][0, 0] == 64
    assert shown["longest trained length of c (512 tokens)"][0, 0] == 512


def test_radar(tmp_path, run, drawn):
    _, printed = report(tmp_path, run("a", 0.9, TEN), run("b", 0.7, TEN[:8], ("1k", "4k"),
                                                          train={"num_steps": 7}))
    axes = drawn["capabilities.png"].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "single-step reasoning\nqa1", "multi-step reasoning\nqa2, qa3",
        "relation tracking\nqa4, qa5", "basic queries\nqa6, qa7, qa8"]
    values = [np.mean([rate(task, length, 0.7) for task in tasks for length in ("1k", "4k")])
              for tasks in (TEN[:1], TEN[1:3], TEN[3:5], TEN[5:8])]
    np.testing.assert_allclose(lines(axes)["b (1 seed)"][:, 1], [*values, values[0]], atol=1e-9)
    np.testing.assert_allclose(
        [p[:, 1] for label, p in lines(axes).items() if label.startswith("constant")], 0.2)
    assert "mean over 1k, 4k; memory carried; n = 100" in drawn["capabilities.png"].get_suptitle()


def test_a_radar_of_two_axes_is_left_out_in_one_line(tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "capabilities.png").write_text("of an older report")
    text, printed = report(tmp_path, run("a", tasks=("qa1", "qa2", "qa3")), width=40)
    assert [line for line in printed.splitlines() if "capabilities" in line] == [
        "capabilities.png is not drawn: 2 of the capabilities have results in every model, a "
        "radar needs 3"]
    assert "capabilities.png" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "accuracy.png"}


def test_no_common_task_is_no_figure(tmp_path, run):
    text, printed = report(tmp_path, run("a", tasks=("qa1",)),
                           run("b", tasks=("qa2",), train={"num_steps": 7}))
    assert "accuracy.png is not drawn: no task has results in every model" in printed
    assert line_of(text, "1k", "a")["Avg"] == "-" and "## Figures" not in text


def test_every_task_has_one_capability():
    tasks = [task for members in CAPABILITIES.values() for task in members]
    assert sorted(tasks) == sorted(LABELS) and len(CAPABILITIES) == 5
    assert axes_of(["qa9", "qa12", "other"]) == {"single-step reasoning": ["qa12"],
                                                 "negation and uncertainty": ["qa9"]}


def test_figures_are_written_as_png(tmp_path, run):
    report(tmp_path, run("a", tasks=TEN, lengths=("0k", "96", "8k", "16k")),
           run("b", tasks=TEN, lengths=("8k",), train={"num_steps": 7}), paper=True)
    for name in ("accuracy.png", "capabilities.png"):
        data = (tmp_path / "out" / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", data[16:24])) > 600


# The paper's own figures.

def test_paper_rows_stand_in_their_blocks(tmp_path, run, drawn):
    text, _ = report(tmp_path, run("a", tasks=TEN, lengths=("0k", "4k", "8k", "16k")), paper=True)
    for length, lm2, rag in [("0k", "92.5", None), ("4k", "55.9", "37.3"),
                             (">= 8k", "39.9", "32.3")]:
        assert line_of(text, length, "LM2-1.7B (paper)")["Avg"] == lm2
        assert line_of(text, length, "LM2-1.7B (paper)")["qa1"] == "-"
        assert [row["Avg"] for row in table_of(text, "length")
                if (row["length"], row["model"]) == (length, "Llama-3.2-1.2B with RAG (paper)")
                ] == [rag] * (rag is not None)
    assert "arXiv 2502.06049v1), mean of qa1 to qa10" in text and "not reproduced" in text
    assert "at 4k its text says 48.4, its table 38.4" in text
    axes = drawn["accuracy.png"].axes[0]
    np.testing.assert_allclose(lines(axes)["LM2-1.7B (paper)"], [[120, 0.925], [4096, 0.559]])
    levels = [x.get_ydata() for x in axes.get_lines() if list(x.get_xdata()) == [8192, 16384]]
    np.testing.assert_allclose(levels, [[v, v] for v in (0.399, 0.355, 0.312, 0.282, 0.323)])
    assert any("not reproduced; level" in text.get_text() for text in axes.texts)


def test_paper_is_silent_unless_asked_or_without_like_figures(tmp_path, run, drawn):
    text, _ = report(tmp_path, run("a", tasks=TEN))
    assert "(paper)" not in text and "arXiv" not in text
    for folder in (run("b", lengths=("96",)), run("c", tasks=("qa11",))):
        text, _ = report(tmp_path, folder, paper=True)
        assert "has no figures of these tasks at these lengths" in text
        assert "(paper)" not in text and not any(
            "reproduced" in t.get_text() for t in drawn["accuracy.png"].axes[0].texts)


def test_the_series_beside_are_of_the_fewest_tasks():
    assert [(s.model, s.average) for s in paper.beside(["qa2"])] == [
        ("LM2-1.7B", "mean of qa1 to qa5")]
    assert [s.average for s in paper.beside(["qa7"])] == ["qa7"]
    assert {s.average for s in paper.beside(["qa2", "qa7"])} == {"mean of qa1 to qa10"}
    assert len(paper.beside(TEN)) == 5 and paper.beside(["qa11"]) == []
    for series in (*paper.beside(["qa1"]), *paper.beside(["qa7"]), *paper.beside(TEN)):
        assert all(0 < value < 1 for value in series.rates.values())
        assert all(length == paper.LONG or parse_length(length) >= 0 for length in series.rates)


# The command.

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
    (break_provenance, ["provenance.json does not say", "lm2 eval --config="]),
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
