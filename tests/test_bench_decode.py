"""`lm2 bench decode`: what it prints is what it measured."""

import dataclasses
import json
import sys

import pytest
from test_inspection import config_of, printed

from lm2_jax.bench import decode
from lm2_jax.config import ModelConfig

MODEL = ModelConfig(embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, mlp_dim=8,
                    segment_length=6)
# In the place of a Python with torch: it answers what `torch_llama` would.
RIVAL = """#!{python}
import json, sys
options = json.loads(sys.argv[2])
assert options["work"] == "generate" and options["options"] == dict(prompt=9, new=5)
print(json.dumps(dict(parameters=7, torch="2.0", transformers="5.0")), flush=True)
for line in sys.stdin:
    print(json.dumps([2.0 * json.loads(line), 8.0]), flush=True)
"""


def test_rates_are_those_of_the_times(tmp_path, monkeypatch, compiled_quickly):
    asked, generate = [], decode.generate

    def seen(engine, prompts, new):
        asked.append((len(prompts), *set(map(len, prompts)), new))
        return generate(engine, prompts, new)

    monkeypatch.setattr(decode, "generate", seen)
    config = dataclasses.replace(config_of(), model=MODEL)
    rates, text = printed(decode.run, config, None, (1, 3), 9, 5, 2, tmp_path, "")
    assert asked == [(1, 9, 5)] * 3 + [(3, 9, 5)] * 3
    stored = json.loads((tmp_path / "decode.json").read_text())["rates"]
    for rate, row in zip(rates, stored, strict=True):
        assert row["first"] == list(rate.first) and min(row["first"] + row["rest"]) > 0
        assert rate.reading == pytest.approx(rate.batch * 9 / (sum(rate.first) / 2))
        assert rate.decoding == pytest.approx(rate.batch * 4 / (sum(rate.rest) / 2))
        assert f"{rate.decoding:,.1f}" in text
    assert f"{rates[1].decoding:,.1f}" in (tmp_path / "decode.md").read_text()
    assert "parameters, segments of 6 tokens" in text


def test_another_library_is_measured_beside(tmp_path, monkeypatch):
    rival = tmp_path / "python"
    rival.write_text(RIVAL.format(python=sys.executable))
    rival.chmod(0o755)
    monkeypatch.setattr(decode, "generate", lambda engine, prompts, new: (0.5, 2.0))
    config = dataclasses.replace(config_of(), model=MODEL)
    rates, text = printed(decode.run, config, None, (1, 3), 9, 5, 2, tmp_path, str(rival))
    assert [(rate.by, rate.batch, rate.first) for rate in rates] == [
        ("lm2_jax", 1, (0.5, 0.5)), ("transformers", 1, (2.0, 2.0)),
        ("lm2_jax", 3, (0.5, 0.5)), ("transformers", 3, (6.0, 6.0))]
    rows = decode.table(rates).sections[0]
    assert rows[2][6] == "12.00 (12.00-12.00)" and rows[2][9] == "4.00 (4.00-4.00)"
    assert "torch 2.0, transformers 5.0" in text
