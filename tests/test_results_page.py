"""The pages, reports and plots of configs/results are those of its JSON and CSV files."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import reports

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("build", ROOT / "configs" / "results" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
run, drawn = reports.run, reports.drawn


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", build.PAGES, ids=str)
def test_tables_of_the_pages_are_up_to_date(page):
    text = page.read_text("utf-8")
    assert text.count("<!-- begin ") == text.count("<!-- end -->") >= 1
    assert build.with_tables(text) == text, "run: python configs/results/build.py"


def test_every_result_has_a_section():
    text = Path(build.RESULTS, "README.md").read_text("utf-8")
    tables = set(re.findall("<!-- begin (.*) -->", text))
    assert tables == {path.name for path in build.RESULTS.iterdir() if path.is_dir()} | {
        "rivals/half_lives", "buckets/kills", "llama_memory/answers", "trials/stopped",
        "window/plateau"}
    for target in re.findall(r"\]\((?!http)(.*?)\)", text):
        assert (build.RESULTS / target).is_file(), target


@pytest.mark.parametrize("name", build.COMPARED)
def test_reports_are_up_to_date(name, tmp_path, drawn):
    build.compare(build.RESULTS / name, tmp_path)
    written = (tmp_path / "report.md").read_text("utf-8")
    assert written == (build.RESULTS / name / "report.md").read_text("utf-8")
    assert drawn.keys() == {"accuracy.png"}


@pytest.mark.parametrize("name", build.COMPILED)
def test_compilation_reports_are_up_to_date(name):
    folder = build.RESULTS / name
    written = build.compilation.markdown(build.compilation.read_all(folder))
    assert written == (folder / "report.md").read_text("utf-8")


def test_a_copied_run_is_drawn_from_its_copies(tmp_path, run, drawn):
    workdir = run("mine", provenance={"config": {}})
    lines = [{"step": step, "segments": 1 + step // 3, "loss": 1 / step, "tokens": 9,
              "answer_accuracy": None if step == 2 else 0.5} for step in range(1, 6)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    build.copy_run(workdir, tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "provenance.json", "results.json", "training.csv"]
    build.draw(tmp_path / "kept")
    loss, _ = drawn["training.png"].axes
    x, y = loss.get_lines()[0].get_data()
    assert x.tolist() == [1, 2, 3, 4, 5]
    assert y == pytest.approx([1 / step for step in x], rel=1e-4)
    assert drawn["training.png"].get_suptitle().endswith("kept")


def test_held_out_losses_are_drawn_from_copies(tmp_path, drawn):
    for name in ("blocks_1_seed0", "blocks_1_seed1", "llama_seed0"):
        (tmp_path / name).mkdir()
        lines = [{"step": 1, "segments": 2, "loss": 3.0, "tokens": 8, "answer_accuracy": 0.0},
                 {"step": 1, "held_out_loss": 2.5}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(
            json.dumps(line) + "\n" for line in lines))
        build.copy_run(tmp_path / name, tmp_path / "ablation_blocks" / name)
    build.draw_held_out(tmp_path / "ablation_blocks")
    labels = [line.get_label() for line in drawn["held_out.png"].axes[0].get_lines()]
    assert labels == ["blocks_1 (2 seeds)", "llama (1 seed)"]
    for line in drawn["held_out.png"].axes[0].get_lines():
        assert [values.tolist() for values in line.get_data()] == [[8], [2.5]]
