"""The figures of `lm2 report`, and the paper's own figures beside them."""

import struct

import numpy as np
import reports
from reports import LENGTHS, TEN, line_of, rate, report, table_of

from lm2_jax.config import parse_length
from lm2_jax.eval.metrics import LABELS, wilson
from lm2_jax.report import paper
from lm2_jax.report.capabilities import CAPABILITIES, axes_of

run, drawn = reports.run, reports.drawn


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
    for label, base in [("a (1 seed)", 0.9), ("b (2 seeds)", 0.65)]:
        means = [np.mean([rate(task, length, base) for task in TEN[:2]]) for length in LENGTHS]
        np.testing.assert_allclose(shown[label][:, 0], tokens, rtol=0.06)
        np.testing.assert_allclose(shown[label][:, 1], means, atol=1e-9)
    assert (shown["b (2 seeds)"][:, 0] > 1.01 * shown["a (1 seed)"][:, 0]).all()
    constant, = [points for label, points in shown.items() if "constant" in label]
    np.testing.assert_allclose(constant, np.column_stack([tokens, 3 * [0.2]]))
    assert shown["longest row in training (64 tokens)"][0, 0] == 64
    bars = [c.get_segments()[0][:, 1] for c in axes.collections]
    middle = np.mean([rate(task, "1k", 0.9) for task in TEN[:2]])
    np.testing.assert_allclose(bars[1], wilson(middle * 100, 100), atol=1e-9)
    seeds = [np.mean([rate(task, "1k", base) for task in TEN[:2]]) for base in (0.6, 0.7)]
    np.testing.assert_allclose(bars[4], seeds, atol=1e-9)
    dots = [np.sort(x.get_ydata()) for x in axes.get_lines() if x.get_linestyle() == "None"
            and len(x.get_ydata()) == 2 and x.get_marker() == "o"]
    np.testing.assert_allclose(dots[1], seeds, atol=1e-9)
    assert axes.get_title(loc="left") == "Exact match vs context length: mean of qa1, qa2"
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


def test_names_are_shown_as_they_are(tmp_path, run, drawn):
    """No $ begins mathematics; no underscore hides a label, as matplotlib's convention would."""
    name = r"_a $\x$"
    report(tmp_path, run("a", data={"curriculum": [[0, 9]]}), run("b", train={"num_steps": 7}),
           names=[name, "b"])
    figure = drawn["accuracy.png"]
    figure.canvas.draw()
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert len(labels) == 5 and labels[0] == r" _a \$\x\$ (1 seed)"


def test_each_longest_trained_length_is_marked(tmp_path, run, drawn):
    report(tmp_path, run("a"), run("b", train={"num_steps": 7}),
           run("c", data={"curriculum": [[0, 1], [5, 8], [9, 4]]}))
    shown = lines(drawn["accuracy.png"].axes[0])
    assert shown["longest row in training of a; b (64 tokens)"][0, 0] == 64
    assert shown["longest row in training of c (512 tokens)"][0, 0] == 512


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
        [p[:, 1] for label, p in lines(axes).items() if "constant" in label], 0.2)
    assert "mean over 1k, 4k; n = 100 per task" in drawn["capabilities.png"].get_suptitle()


MEMORY = {"vocab_size": 50, "memory": {"num_layers": 1}}


def test_memory_carried_is_said_only_where_every_model_has_one(tmp_path, run, drawn):
    folders = run("a", tasks=TEN, model=MEMORY), run("llama", tasks=TEN)
    for count, said in ((1, True), (2, False)):
        report(tmp_path, *folders[:count])
        assert ("memory carried" in drawn["capabilities.png"].get_suptitle()) == said
        assert any("memory carried" in text.get_text()
                   for text in drawn["accuracy.png"].axes[0].texts) == said


def test_six_models_have_six_colours_that_differ_in_grey_too(tmp_path, run, drawn):
    report(tmp_path, *(run(f"m{i}", 0.9 - i / 20, train={"num_steps": i + 1}) for i in range(6)))
    curves = [line for line in drawn["accuracy.png"].axes[0].get_lines()
              if str(line.get_label()).startswith("m")]
    assert len({line.get_color() for line in curves}) == 6
    assert len({line.get_marker() for line in curves}) == 6
    assert len({str(line._unscaled_dash_pattern) for line in curves}) == 6


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
    assert any("not reproduced\nhorizontal" in text.get_text() for text in axes.texts)


def test_paper_is_silent_unless_asked_or_without_like_figures(tmp_path, run, drawn):
    text, _ = report(tmp_path, run("a", tasks=TEN))
    assert "(paper)" not in text and "arXiv" not in text
    for folder in (run("b", lengths=("96",)), run("c", tasks=("qa11",))):
        text, _ = report(tmp_path, folder, paper=True)
        assert "has no results of these tasks at these lengths" in text
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
