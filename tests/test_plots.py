"""Plots of one run: its results and its training."""

import math
import os
import struct

import matplotlib
import numpy as np
import pytest
from result_rows import TOKENS, grid, row

from lm2_jax.eval.metrics import wilson
from lm2_jax.report import plots, style


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5_000
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn, instead of written."""
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
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
    width, height = png_size(path)
    assert width == 1_080 and 660 < height < 900
    heat_map = plots.plot_heat_map(rows, tmp_path / "new" / "map.png")
    if len({row.task for row in rows}) == 1:
        assert heat_map is None
    else:
        width, height = png_size(heat_map)
        assert 600 < width < 2_000 and 250 < height < 2_000
    assert sorted(os.listdir(path.parent)) == ["curves.png", "map.png"][:2 if heat_map else 1]


def test_a_heat_map_of_one_task_is_not_drawn(tmp_path):
    """One of an earlier evaluation of several tasks would be taken for this one's."""
    (tmp_path / "map.png").write_text("of an earlier evaluation")
    assert plots.plot_heat_map(grid(["qa1"]), tmp_path / "map.png") is None
    assert not list(tmp_path.iterdir())


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
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0k\n1.0", "1k\n6.3", "16k\n131"]
    assert bar.get_ylim() == (0, 1) and "exact match" in bar.get_ylabel()
    assert "n = 100" in axes.texts[6].get_text()


def test_curves_show_the_means_with_intervals(figures):
    plots.plot_curves(grid(["qa1", "qa2"]), "", trained_tokens=2_048, name="mine")
    axes = figures[0].axes[0]
    tokens = np.array(list(TOKENS.values()))
    for start, first in [("mean of 2 tasks, memory carried", 0.89), ("qa1", 0.9),
                         ("mean of 2 tasks, memory wiped", 0.59), ("qa2", 0.88)]:
        found = line(axes, start)
        np.testing.assert_allclose(found[:, 0], tokens, rtol=0.06)  # set apart, yet near
        np.testing.assert_allclose(found[:, 1], first - 0.1 * np.arange(4))
    np.testing.assert_allclose(line(axes, "mean of 2 tasks, best constant"),
                               np.column_stack([tokens, 4 * [0.2]]))
    np.testing.assert_allclose(line(axes, "longest row in training (2,048 tokens)")[:, 0], 2_048)
    assert axes.get_xscale() == "log"
    assert axes.get_title(loc="left") == "Exact match vs context length: qa1, qa2, mine"
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "0k\n1.0", "1k\n6.3", "4k\n31.7", "16k\n131"]
    bars = [bar.get_segments()[0][:, 1] for bar in axes.collections]
    wanted = [wilson((first - 0.1 * i) * 200, 200) for first in (0.89, 0.59) for i in range(4)]
    np.testing.assert_allclose(bars, wanted, atol=1e-9)  # of the wiped memory too
    drawn = [x for x in axes.get_lines() if not str(x.get_label()).startswith("_")]
    assert len({(str(x._unscaled_dash_pattern), x.get_marker()) for x in drawn}) == 6


def test_points_at_one_length_do_not_overlap(figures):
    plots.plot_curves(grid(["qa1"]), "")
    axes, = figures[0].axes
    carried, wiped = (line(axes, f"memory {state}")[:, 0] for state in ("carried", "wiped"))
    assert (wiped > 1.01 * carried).all()


def test_a_model_without_memory_has_no_memory_carried_or_wiped(figures):
    plots.plot_curves(grid(["qa1"]), "", has_memory=False)
    axes, = figures[0].axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["exact match", "best constant answer"]


def test_curves_of_other_models_stand_beside(figures):
    plots.plot_curves(grid(["qa1"], ["1k", "4k"]), "",
                      beside={"other": [row("qa1", "1k", match=0.3), row("qa1", "4k", match=0.2)]})
    np.testing.assert_allclose(line(figures[0].axes[0], "other")[:, 1], [0.3, 0.2])


def test_curves_average_only_where_all_tasks_are(figures):
    plots.plot_curves([*grid(["qa1", "qa2"], ["1k", "4k"]), row("qa1", "16k", match=1.0)], "")
    axes = figures[0].axes[0]
    assert len(line(axes, "mean of 2 tasks, memory carried")) == 2
    assert len(line(axes, "qa1")) == 3
    plots.plot_curves(grid([f"qa{i}" for i in range(1, 7)]), "", name="six")
    assert figures[1].axes[0].get_title(loc="left") == (
        "Exact match vs context length: 6 tasks, six")
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


def test_smoothing_is_a_centred_mean_that_begins_at_the_first_value():
    values = np.random.default_rng(0).normal(size=30)
    halves = [min(4, i) for i in range(30)]
    expected = [values[i - half:i + half + 1].mean() for i, half in enumerate(halves)]
    np.testing.assert_allclose(plots.smooth(values, 4), expected)
    falling = 8 * 0.9 ** np.arange(100)
    assert plots.smooth(falling, 20)[0] == falling[0]


def test_training_loss_has_a_log_axis_and_a_title(figures):
    plots.plot_training([1, 2, 3], [9.0, 0.9, 0.09], [0.1, 0.2, 0.3], "", [(0, 1)], "quickstart")
    loss, accuracy = figures[0].axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert figures[0].get_suptitle() == "Loss and answer accuracy vs training step: quickstart"


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
    assert png_size(path) == (1_080, 900)
