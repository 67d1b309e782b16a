"""Grids of runs: recognised by their names, and drawn as heat maps."""

import matplotlib.image
import pytest

from lm2_jax.config import files, source
from lm2_jax.report import grid_plots


def test_the_runs_of_the_sensitivity_config_are_a_grid_of_equal_tokens():
    names = source.runs("sensitivity")
    grid = grid_plots.of_names(names)
    assert {axis: len(values) for axis, values in grid.axes.items()} == {
        "rate": 5, "rows": 3, "warmup": 2}
    assert {grid.name((rate, rows, warmup)) for rate in grid.axes["rate"]
            for rows in grid.axes["rows"] for warmup in grid.axes["warmup"]} == set(names)
    base, half, twice = (files.load_config(f"sensitivity:rate_0.001_rows_{rows}_warmup_50")
                         for rows in (1, 0.5, 2))
    assert base.data.curriculum == files.load_config("rivals:lm2").data.curriculum
    for other in (half, twice):
        assert [tokens for _, tokens in _stages(other)] == pytest.approx(
            [tokens for _, tokens in _stages(base)], rel=0.01)


def _stages(config):
    """(segments, tokens) of each stage."""
    firsts = [stage[0] for stage in config.data.curriculum] + [config.train.num_steps]
    return [(segments, (last - first) * segments * rows) for (first, segments, rows), last in
            zip(config.data.curriculum, firsts[1:], strict=True)]


@pytest.mark.parametrize("names", [
    [], ["base", "paper"], ["cost_0.1", "cost_0.3"], ["a_1_b_1", "a_1_c_2"],
    ["a_1_b_1", "a_2_b_1"], ["a_1_b_x", "a_2_b_2"]])
def test_other_names_are_no_grid(names):
    assert grid_plots.of_names(names) is None


def test_values_are_in_numerical_order():
    grid = grid_plots.of_names(["rate_10_rows_1", "rate_2_rows_0.5", "rate_1e-3_rows_1"])
    assert grid.axes == {"rate": ["1e-3", "2", "10"], "rows": ["0.5", "1"]}


def test_cells_that_work_are_outlined_and_missing_runs_are_grey(tmp_path):
    grid = grid_plots.of_names([f"rate_{r}_rows_{b}" for r in (1, 2, 3) for b in (1, 2)])
    scores = {"rate_1_rows_1": {"1k": 0.99}, "rate_1_rows_2": {"1k": 0.2},
              "rate_2_rows_1": {"1k": 0.9}, "rate_3_rows_2": {"1k": 0.0}}
    path = grid_plots.plot(grid, scores, ["1k"], tmp_path / "grid.png")
    picture = matplotlib.image.imread(path)[..., :3]
    outline = abs(picture - [0xD5 / 255, 0x5E / 255, 0]).max(axis=2) < 0.02
    assert outline.any()
    rows = outline.any(axis=1).nonzero()[0]
    columns = outline.any(axis=0).nonzero()[0]
    middle = (columns.min() + columns.max()) // 2
    assert columns.max() < picture.shape[1] * 0.6  # the first column of cells alone
    assert rows.max() - rows.min() > 50 and columns.min() < middle < columns.max()
