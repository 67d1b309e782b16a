"""launch/colab.ipynb: it runs, and the outputs that it is committed with are those of its cells."""

import ast
import json
import os
import re
import socket
import subprocess
import sys

import nbformat
import pytest
import run_notebook
import runs
from nbformat.v4 import new_code_cell, new_notebook

NOTEBOOK = json.loads(run_notebook.NOTEBOOK.read_text("utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
OUTPUTS = [output for cell in CODE for output in cell["outputs"]]
TEXT = "\n".join("".join(output.get("text", output.get("data", {}).get("text/plain", "")))
                 for output in OUTPUTS)
BAR = """
from lm2_jax.runtime import progress
progress.SECONDS_BETWEEN_UPDATES = 0.0
bar = progress.Bar("train", 1000)
for step in range(1000):
    bar.update(step + 1, f"loss {step}")
bar.close()
"""


def test_it_is_a_notebook_of_moderate_size():
    nbformat.validate(NOTEBOOK)
    assert run_notebook.NOTEBOOK.stat().st_size < 1.5e6
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


def test_its_outputs_are_of_its_sources():
    """After a change: python tests/tools/run_notebook.py --save"""
    assert NOTEBOOK["metadata"][run_notebook.DIGEST] == run_notebook.digest(NOTEBOOK)
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert sum("image/png" in output.get("data", {}) for output in OUTPUTS) == 4


def test_its_outputs_show_no_error_and_nothing_of_the_machine():
    assert not [output for output in OUTPUTS if output["output_type"] == "error"
                or output.get("name") == "stderr"]
    assert not re.search(r"(^|[\s'\"(])/\w+/|[A-Z]:\\|Warning|Traceback|\x1b", TEXT, re.M)
    assert socket.gethostname() not in TEXT


def test_a_word_of_it_that_changes_changes_the_digest():
    changed = json.loads(json.dumps(NOTEBOOK))
    changed["cells"][0]["source"] = "another title"
    assert run_notebook.digest(changed) != run_notebook.digest(NOTEBOOK)


def test_the_number_of_devices_is_set_before_jax_is_used():
    sources = ["".join(cell["source"]) for cell in CODE]
    first = next(i for i, source in enumerate(sources) if "jax_num_cpu_devices" in source)
    assert not any("jax" in ast.unparse(node) for source in sources[:first]
                   for node in ast.walk(ast.parse(source.replace("%pip", "#")))
                   if isinstance(node, ast.Import | ast.ImportFrom))


@pytest.mark.processes
def test_it_runs_from_start_to_end():
    # It compiles hundreds of small programs, quicker so.
    done = subprocess.run([sys.executable, run_notebook.__file__], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(runs.ROOT), "LM2_LLAMA": "",
                               "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.processes
def test_a_notebook_has_one_bar_that_is_written_over(tmp_path):
    path = tmp_path / "bar.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(BAR)]), path)
    code = f"import pathlib, run_notebook; run_notebook.run(pathlib.Path({str(path)!r}), save=True)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={
        **os.environ, "PYTHONPATH": f"{runs.ROOT}{os.pathsep}{runs.ROOT / 'tests' / 'tools'}"})
    output, = nbformat.read(path, as_version=4).cells[0].outputs
    shown = output["data"]["text/plain"]
    assert shown.startswith(f"train {'█' * 24} 1000/1000  loss 999")
