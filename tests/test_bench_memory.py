"""`lm2 bench memory`: what it counts and what it prints."""

import json
import sys

import pytest
from test_inspection import printed

from lm2_jax.bench import memory
from lm2_jax.errors import UserError
from lm2_jax.report import flops

# In the place of a Python with torch: it answers what `torch_memory` would.
RIVAL = """#!{python}
import json, sys
options = json.loads(sys.argv[2])
assert sys.argv[1].endswith("torch_memory.py") and options["size"] == 16 and options["rows"] == 2
print(json.dumps(dict(torch="2.0", flops=1000)), flush=True)
for line in sys.stdin:
    print(0.25, flush=True)
"""


def test_flops_are_those_of_the_products_of_read_and_write():
    T = M = D = 16
    N, B = 2, 3
    traced, _ = memory._passes(D, N, B)
    # Of tokens: q, o and the output gate of the read, q and r of the write. Of slots: k, which both
    # use, v and two gates. Two attentions. The gradients of a product are two more.
    assert flops.of_traced(traced) == 3 * B * 2 * (5 * T * D * D + 4 * M * D * D + 4 * T * M * D)


def test_both_modules_are_in_the_table(tmp_path, compiled_quickly):
    rival = tmp_path / "python"
    rival.write_text(RIVAL.format(python=sys.executable))
    rival.chmod(0o755)
    rows, text = printed(memory.run, [16], 2, 2, str(rival), 3, tmp_path)
    assert [(row.module, row.size) for row in rows] == [("lm2_jax", 16), ("authors' module", 16)]
    assert rows[1].seconds == (0.25, 0.25, 0.25) and rows[1].flops == 1000
    stored = json.loads((tmp_path / "memory.json").read_text())
    assert stored["rows"][0]["flops"] == rows[0].flops
    origin = stored["measured"]
    assert {"date", "host", "commit"} < origin.keys() and origin["versions"]["jax"]
    assert f"Measured on {origin['date']}, " in (tmp_path / "memory.md").read_text()
    assert "torch 2.0" in text and "authors' module" in (tmp_path / "memory.md").read_text()


def test_the_ratio_is_of_times_at_equal_flops():
    rows = memory.table([memory.Row("a", 8, 4, [1.0, 2.0]), memory.Row("b", 8, 2, [1.0, 1.0])])
    assert rows.sections[0][1][-1] == "1.50 (1.00-2.00)"


def test_sizes_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(UserError, match="--sizes has 12; it must be an even multiple of --heads=4"):
        memory.run([16, 12], 4, 1, "", 1, tmp_path)
