"""Results and predictions on disk, and rows that are refused."""

import csv
import dataclasses
import json
import math
import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from result_rows import grid, row

from lm2_jax.data.babilong.prompts import TaskPrompt
from lm2_jax.eval import results

# A busy machine is no failure.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RATES = st.floats(0, 1)
ROWS = st.builds(results.Row, st.text(), st.text(), st.floats(1, 1e7), st.floats(1, 1e5),
                 st.sampled_from(results.MEMORY), st.integers(1, 10_000), RATES, st.none() | RATES,
                 RATES, st.integers(0, 1))


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


def test_results_of_before_have_nothing_unscorable(tmp_path):
    values = dataclasses.asdict(row())
    values.pop("unscorable")
    (tmp_path / "results.json").write_text(json.dumps([values]))
    assert results.read_results(tmp_path) == [row()]
