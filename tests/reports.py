"""Reports of evaluated workdirs that nobody trained, and what stands in them.

The fixtures are taken by assignment: imported, they look unused to ruff.
"""

import io
import json
import math

import pytest

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.commands import report as job
from lm2_jax.config import files, parse_length
from lm2_jax.eval.results import Row, write_results
from lm2_jax.report import style
from lm2_jax.runtime.console import Console

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
        config = files.from_dict({"model": {"vocab_size": 50}} | config)
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
    monkeypatch.setattr(style, "save", lambda figure, path: found.update({path.name: figure}))
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
