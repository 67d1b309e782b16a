"""`lm2 bench decode`: what it prints is what it measured."""

import dataclasses
import json

import pytest
from test_inspection import config_of, printed

from lm2_jax.bench import decode
from lm2_jax.config import ModelConfig

MODEL = ModelConfig(embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, mlp_dim=8,
                    segment_length=6)


def test_rates_are_those_of_the_times(tmp_path, monkeypatch, compiled_quickly):
    asked, generate = [], decode.generate

    def seen(engine, prompts, new):
        asked.append((len(prompts), *set(map(len, prompts)), new))
        return generate(engine, prompts, new)

    monkeypatch.setattr(decode, "generate", seen)
    config = dataclasses.replace(config_of(), model=MODEL)
    rates, text = printed(decode.run, config, None, (1, 3), 9, 5, 2, tmp_path)
    assert asked == [(1, 9, 5)] * 3 + [(3, 9, 5)] * 3
    stored = json.loads((tmp_path / "decode.json").read_text())["rates"]
    for rate, row in zip(rates, stored, strict=True):
        assert row["first"] == list(rate.first) and min(row["first"] + row["rest"]) > 0
        assert rate.reading == pytest.approx(rate.batch * 9 / (sum(rate.first) / 2))
        assert rate.decoding == pytest.approx(rate.batch * 4 / (sum(rate.rest) / 2))
        assert f"{rate.decoding:,.1f}" in text
    assert f"{rates[1].decoding:,.1f}" in (tmp_path / "decode.md").read_text()
    assert "parameters, segments of 6 tokens" in text
