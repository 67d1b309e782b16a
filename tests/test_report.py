"""Results on disk, tables and plots."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import struct

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lm2_jax.data.prompts import TaskPrompt
from lm2_jax.eval import results
from lm2_jax.report import plots, tables

# A busy machine is no failure.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TOKENS = {"0k": 120.0, "1k": 760.0, "4k": 3_800.0, "16k": 15_700.0}
RATES = st.floats(0, 1)
ROWS = st.builds(results.Row, st.text(), st.text(), st.floats(1, 1e7), st.floats(1, 1e5),
                 st.sampled_from(results.MEMORY), st.integers(1, 10_000), RATES, RATES, RATES,
                 st.integers(0, 1))


def row(task="qa1", length="4k", memory="carried", match=0.5, **values):
    defaults = dict(tokens=TOKENS[length], segments=TOKENS[length] / 120, n=100,
                    accuracy=match, constant_answer=0.2)
    return results.Row(task=task, length=length, memory=memory, exact_match=match,
                       **defaults | values)


def grid(tasks, lengths=tuple(TOKENS), memory=results.MEMORY):
    """Rows with a rate of their own each: 0.9 less 0.1 a length, 0.02 a task, 0.3 if reset."""
    return [row(task, length, kind, round(0.9 - 0.1 * x - 0.02 * y - 0.3 * (kind == "reset"), 2))
            for y, task in enumerate(tasks) for x, length in enumerate(lengths)
            for kind in memory]


@STEADY
@given(st.lists(ROWS))
def test_results_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("results") / "eval"
    path = results.write_results(folder, rows)
    assert path == folder / "results.json" and results.read_results(folder) == rows


TUNED = TaskPrompt()


def write_predictions(folder, lines, memory="carried", prompt=TUNED):
    return results.write_predictions(folder, "qa1", "4k", memory, lines, prompt, 20)


@STEADY
@given(st.lists(st.tuples(st.text(), st.text(), st.text())), st.sampled_from(results.MEMORY))
def test_predictions_round_trip(tmp_path_factory, lines, memory):
    folder = tmp_path_factory.mktemp("predictions")
    path = write_predictions(folder, lines, memory)
    assert path.parent == (folder if memory == "carried" else folder / "reset")
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["target", "output", "question"], *map(list, lines)]


@STEADY
@given(st.builds(TaskPrompt, *4 * [st.text()]))
def test_predictions_are_named_and_described_as_the_benchmarks_are(tmp_path_factory, prompt):
    path = write_predictions(tmp_path_factory.mktemp("predictions"), [], prompt=prompt)
    task, length, *switches = path.stem.split("_")
    assert (task, length) == ("qa1", "4k") and path.suffix == ".csv"
    switches = re.fullmatch(r"instruction_(yes|no)_examples_(yes|no)_post_prompt_(yes|no)_"
                            r"chat_template_no", "_".join(switches)).groups()
    described = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert described.keys() == {"prompt", "generate_kwargs"}
    parts = [described["prompt"][part] for part in ("instruction", "examples", "post_prompt")]
    assert [text != "" for text in parts] == [switch == "yes" for switch in switches]
    assert described["prompt"] == dataclasses.asdict(prompt) | {"chat_template": False}
    assert described["generate_kwargs"]["max_new_tokens"] == 20
    assert described["generate_kwargs"]["do_sample"] is False


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = write_predictions(tmp_path, [("a", "b", "c")])
    before, names = path.read_bytes(), sorted(os.listdir(tmp_path))

    def lines():
        yield "x", "y", "z"
        raise RuntimeError("stopped half way")

    with pytest.raises(RuntimeError):
        write_predictions(tmp_path, lines())
    assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == names


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    results.write_results(tmp_path, [row()])
    seen = []

    def replace(source, target, move=os.replace):
        seen.append((os.path.dirname(source), os.path.dirname(target)))
        assert results.read_results(tmp_path) == [row()]
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    results.write_results(tmp_path, [row(match=0.25)])
    assert seen == [(str(tmp_path), str(tmp_path))]
    assert results.read_results(tmp_path) == [row(match=0.25)]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"task": "qa1"}]', '[{"other": 1}]', "3"])
def test_bad_results_are_refused_in_one_line(tmp_path, text):
    with pytest.raises(FileNotFoundError, match="run an evaluation first"):
        results.read_results(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold a list of results") as error:
        results.read_results(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("field", "value"), [
    ("memory", "kept"), ("n", 0), ("unscorable", 101), ("unscorable", -1),
    ("tokens", 0.0), ("segments", math.nan),
    ("exact_match", 93.0), ("accuracy", -0.1), ("constant_answer", math.nan)])
def test_impossible_rows_are_refused(field, value):
    with pytest.raises(ValueError, match=f"row qa1 4k.*{field}"):
        dataclasses.replace(row(), **{field: value})
    with pytest.raises(ValueError, match="memory is 'kept'"):
        write_predictions("", [], "kept")


def test_cells_pair_rows_and_sort_naturally():
    rows = grid(["qa10", "qa2"], ["16k", "1k"])
    cells = results.cells(rows)
    assert [(c.carried.task, c.carried.length) for c in cells] == [
        ("qa2", "1k"), ("qa2", "16k"), ("qa10", "1k"), ("qa10", "16k")]
    assert all(c.reset.exact_match == pytest.approx(c.carried.exact_match - 0.3) for c in cells)
    with pytest.raises(ValueError, match="two carried rows of qa10 16k"):
        results.cells([*rows, rows[0]])
    with pytest.raises(ValueError, match="no rows"):
        results.cells([])


def lines_of(rows):
    """The body of the Markdown table, as lists of cells."""
    text = tables.markdown_table(rows)
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines()[2:]]


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def test_one_line_for_each_task_and_length():
    rows = [row(match=0.93, tokens=3_812.4, segments=31.78),
            row(memory="reset", match=0.255), row(length="0k", match=1.0, n=10)]
    assert lines_of(rows) == [
        ["qa1", "0k", "120", "1.0", "10", "100 (72.2-100)", "-", "20.0"],
        ["qa1", "4k", "3,812", "31.8", "100", "93.0 (86.3-96.6)", "25.5", "20.0"]]
    assert lines_of([row(memory="reset", match=0.25)])[0][5:] == ["-", "25.0", "20.0"]


def test_means_are_over_all_tasks_or_not_given():
    rows = [row("qa1", match=0.9), row("qa1", memory="reset", match=0.4),
            row("qa2", match=0.6, constant_answer=0.3), row("qa1", "16k", match=0.3)]
    assert [line for line in lines_of(rows) if line[0] == "mean"] == [
        ["mean", "4k", "3,800", "31.7", "200", "75.0 (68.6-80.5)", "-", "25.0"]]
    assert lines_of([*rows, row("qa2", memory="reset", match=0.2)])[-1][6] == "30.0"


def test_official_metric_has_a_column_where_it_differs():
    assert "official" not in tables.markdown_table([row()])
    table = tables.markdown_table([row(match=0.1, accuracy=0.625), row("qa2")])
    assert "| exact match % (95 % interval) | official metric % |" in table
    assert "| 10.0 (5.5-17.4) | 62.5 | - |" in table


def test_a_footnote_says_where_the_official_metric_cannot_be_right():
    rows = [row(), row("qa7", unscorable=47), row("qa7", memory="reset", unscorable=47),
            row("qa7", "16k", "reset", unscorable=45)]
    table, *note = tables.markdown_table(rows).split("\n\n")
    assert table == tables.markdown_table([dataclasses.replace(r, unscorable=0) for r in rows]
                                          ).rstrip("\n")
    assert len(note) == 1 and note[0].endswith("47 of 100 in qa7 4k, 45 of 100 in qa7 16k.\n")
    text = " ".join(printed(tables.results_table(rows)).split())
    assert note[0].strip() in text
    assert "every answer wrong" not in printed(tables.results_table(rows[:1]))


def test_results_of_before_have_nothing_unscorable(tmp_path):
    values = dataclasses.asdict(row())
    values.pop("unscorable")
    (tmp_path / "results.json").write_text(json.dumps([values]))
    assert results.read_results(tmp_path) == [row()]


@pytest.mark.parametrize("tasks", [["qa1"], ["qa1", "qa2", "qa10"]])
def test_terminal_table_shows_the_same_and_fits(tasks):
    rows = [dataclasses.replace(r, n=1_000) for r in grid(tasks)]
    text = printed(tables.results_table(rows))
    for line in lines_of(rows):
        assert any(part.split() == " ".join(line).split() for part in text.splitlines()), line


def test_names_are_shown_as_they_are():
    rows = [row("[red]a|b[/red]")]
    assert "[red]a|b[/red]" in printed(tables.results_table(rows), 120)
    assert r"| [red]a\|b[/red] |" in tables.markdown_table(rows)
    text = printed(tables.config_table("Model", {"parameters": 1_234_567, "[x]": (1, 2)}))
    assert "Model" in text and "1,234,567" in text and "[x]" in text and "(1, 2)" in text


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5_000
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn, instead of written."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    return drawn


def line(axes, start):
    """The points of the one line whose label starts so."""
    found, = [x for x in axes.get_lines() if str(x.get_label()).startswith(start)]
    return np.column_stack(found.get_data())


CASES = {
    "one row": [row(length="0k", match=1.0)],
    "one length": grid(["qa1", "qa2"], ["4k"]),
    "none right": [row(match=0.0), row(length="16k", match=0.0)],
    "no reset rows": grid(["qa1"], memory=["carried"]),
    "only reset rows": grid(["qa1", "qa2"], memory=["reset"]),
    "some reset rows": grid(["qa1"]) + grid(["qa2"], memory=["carried"]),
    "no common length": [row("qa1", "1k"), row("qa2", "4k")],
    "many, no common length": [row(f"qa{i}", "1k" if i < 4 else "4k") for i in range(1, 8)],
    "ten tasks": grid([f"qa{i}" for i in range(1, 11)]),
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_result_plots_are_written(tmp_path, rows):
    path = plots.plot_curves(rows, tmp_path / "new" / "curves.png", trained_tokens=1_024)
    assert png_size(path) == (1_080, 720)
    width, height = png_size(plots.plot_heat_map(rows, tmp_path / "new" / "map.png"))
    assert 600 < width < 2_000 and 250 < height < 2_000
    assert sorted(os.listdir(path.parent)) == ["curves.png", "map.png"]


def test_plots_leave_global_state_alone(tmp_path):
    with matplotlib.rc_context({"font.size": 7.5, "lines.linewidth": 0.3}):
        before = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
        plots.plot_curves(grid(["qa1"]), tmp_path / "curves.png")
        assert before == (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False))


def test_heat_map_shows_the_carried_memory(figures):
    plots.plot_heat_map([*grid(["qa10", "qa2"], ["16k", "1k"]), row("qa2", "0k", match=1.0)], "")
    axes, bar = figures[0].axes
    shown = {text.get_position(): text.get_text() for text in axes.texts[:6]}
    assert shown == {(0, 0): "1.00", (1, 0): "0.78", (2, 0): "0.88",
                     (0, 1): "-", (1, 1): "0.80", (2, 1): "0.90"}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["qa2", "qa10"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0k\n1", "1k\n6.3", "16k\n131"]
    assert bar.get_ylim() == (0, 1) and "exact match" in bar.get_ylabel()
    assert "n = 100" in axes.texts[6].get_text()


def test_curves_show_the_three_means(figures):
    plots.plot_curves(grid(["qa1", "qa2"]), "", trained_tokens=2_048)
    axes = figures[0].axes[0]
    tokens = list(TOKENS.values())
    for start, first in [("mean over 2 tasks, memory carried", 0.89), ("qa1", 0.9),
                         ("mean over 2 tasks, memory wiped", 0.59), ("qa2", 0.88)]:
        expected = np.column_stack([tokens, first - 0.1 * np.arange(4)])
        np.testing.assert_allclose(line(axes, start), expected)
    np.testing.assert_allclose(line(axes, "always"), np.column_stack([tokens, 4 * [0.2]]))
    np.testing.assert_allclose(line(axes, "longest trained length (2,048 tokens)")[:, 0], 2_048)
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "0k\n1", "1k\n6.3", "4k\n32", "16k\n131"]
    band = axes.collections[0].get_paths()[0].vertices
    low, high = plots.wilson(178, 200)
    ends = band[np.isclose(band[:, 0], 120.0), 1]
    assert ends.min() == pytest.approx(low) and ends.max() == pytest.approx(high)
    drawn = [x for x in axes.get_lines() if not str(x.get_label()).startswith("_")]
    assert len({(x.get_linestyle(), x.get_marker()) for x in drawn}) == len(drawn) == 6


def test_curves_average_only_where_all_tasks_are(figures):
    plots.plot_curves([*grid(["qa1", "qa2"], ["1k", "4k"]), row("qa1", "16k", match=1.0)], "")
    axes = figures[0].axes[0]
    assert len(line(axes, "mean over 2 tasks, memory carried")) == 2
    assert len(line(axes, "qa1")) == 3
    plots.plot_curves(grid([f"qa{i}" for i in range(1, 7)]), "", title="Six")
    assert figures[1].axes[0].get_title(loc="left") == "Six"
    assert not [x for x in figures[1].axes[0].get_lines() if "qa" in str(x.get_label())]


def test_training_plot_marks_the_stages_and_smooths_within_them(figures):
    steps = np.arange(1, 801)
    losses = np.where(steps < 400, 2.0, 1.0)
    plots.plot_training(steps.tolist(), losses, np.full(800, 0.5), "",
                        [(0, 1), (400, 2), (5_000, 4)])
    upper, lower = figures[0].axes
    np.testing.assert_array_equal(line(upper, "as measured"), np.column_stack([steps, losses]))
    pieces = [x.get_data() for x in upper.get_lines() if x.get_linewidth() == 1.6]
    smooth = np.concatenate([np.column_stack(p) for p in pieces if len(p[0])])
    np.testing.assert_allclose(smooth, np.column_stack([steps, losses]))
    for axes in (upper, lower):
        assert [x.get_xdata()[0] for x in axes.get_lines() if x.get_linestyle() == ":"] == [400]
    labels = {t.get_text() for child in upper.child_axes for t in child.get_xticklabels()}
    assert labels == {"1", "2"}


def test_smoothing_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=30)
    expected = [values[max(0, i - 4):i + 5].mean() for i in range(30)]
    np.testing.assert_allclose(plots._smooth(values, 4), expected)


def test_training_plot_keeps_the_last_value_of_a_step(figures):
    plots.plot_training([1, 2, 3, 2, 3], [9, 8, 7, 6, 5], [math.nan] * 5, "", [(0, 1)])
    axes, = figures[0].axes
    np.testing.assert_array_equal(axes.get_lines()[0].get_data(), [[1, 2, 3], [9, 6, 5]])
    with pytest.raises(ValueError, match="as many losses and accuracies as steps"):
        plots.plot_training([1, 2], [1.0], [1.0, 1.0], "", [(0, 1)])


@pytest.mark.parametrize("count", [1, 2, 40, 1_000])
def test_training_plot_is_written(tmp_path, count):
    steps = range(1, count + 1)
    accuracies = [0.5 if step % 10 == 1 else math.nan for step in steps]
    path = plots.plot_training(steps, [1 / step for step in steps], accuracies,
                               tmp_path / "training.png", [(0, 1), (20, 2)])
    assert png_size(path) == (1_080, 840)
