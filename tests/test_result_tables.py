"""Tables of the results of one run, as Markdown and in the terminal."""

import dataclasses
import io

import pytest
from result_rows import grid, row

from lm2_jax.report import tables
from lm2_jax.runtime.console import Console


def markdown(rows):
    return tables.results(rows).markdown()


def lines_of(rows):
    """The body of the Markdown table, as lists of cells."""
    text = markdown(rows)
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
    assert "official" not in markdown([row()])
    table = markdown([row(match=0.1, accuracy=0.625), row("qa2")])
    assert "| exact match % (95 % interval) | official metric % |" in table
    assert "| 10.0 (5.5-17.4) | 62.5 | 20.0 |" in table


def test_the_control_with_memory_wiped_has_a_column_where_it_was_evaluated():
    rows = grid(["qa1"])
    assert "| memory wiped % |" in markdown(rows)
    assert "wiped" not in markdown(tables.without_wiped(rows))
    assert tables.without_wiped(grid(["qa1"], memory=["reset"])) == grid(["qa1"], memory=["reset"])


def test_a_task_without_the_official_metric_has_a_dash():
    unknown, both = row("niah"), [row("niah"), row("qa1", match=0.1, accuracy=0.6)]
    for r in (unknown, both[0]):
        object.__setattr__(r, "accuracy", None)
    assert "official" not in markdown([unknown])
    assert [(line[0], line[6]) for line in lines_of(both)] == [
        ("niah", "-"), ("qa1", "60.0"), ("mean", "-")]


def test_a_footnote_says_where_the_official_metric_cannot_be_right():
    rows = [row(), row("qa7", unscorable=47), row("qa7", memory="reset", unscorable=47),
            row("qa7", "16k", "reset", unscorable=45)]
    table, *note = markdown(rows).split("\n\n")
    assert table == markdown([dataclasses.replace(r, unscorable=0) for r in rows]
                                          ).rstrip("\n")
    assert len(note) == 1 and note[0].endswith("47 of 100 in qa7 4k, 45 of 100 in qa7 16k.\n")
    text = " ".join(printed(tables.results(rows).terminal()).split())
    assert note[0].strip() in text
    assert "every answer wrong" not in printed(tables.results(rows[:1]).terminal())


@pytest.mark.parametrize("tasks", [["qa1"], ["qa1", "qa2", "qa10"]])
def test_terminal_table_shows_the_same_and_fits(tasks):
    rows = [dataclasses.replace(r, n=1_000) for r in grid(tasks)]
    text = printed(tables.results(rows).terminal())
    for line in lines_of(rows):
        assert any(part.split() == " ".join(line).split() for part in text.splitlines()), line


def test_names_are_shown_as_they_are():
    rows = [row("[red]a|b[/red]")]
    assert "[red]a|b[/red]" in printed(tables.results(rows).terminal(), 120)
    assert r"| [red]a\|b[/red] |" in markdown(rows)
    text = printed(tables.settings("Model", {"parameters": 1_234_567, "[x]": (1, 2)}))
    assert "Model" in text and "1,234,567" in text and "[x]" in text and "(1, 2)" in text


def test_a_task_without_benchmark_accuracy_has_a_dash_there():
    rows = [row("qa1", accuracy=0.25), row("niah", accuracy=None)]
    found = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")]
             for line in tables.results(rows).markdown().splitlines()}
    column = found["task"].index("official metric %")
    assert [found[task][column] for task in ("qa1", "niah", "mean")] == ["25.0", "-", "-"]
    assert "official" not in tables.results(rows[1:]).markdown()
