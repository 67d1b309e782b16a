"""`lm2 bench context`: what is measured, kept, fitted and said."""

import dataclasses

import pytest
from test_inspection import printed

from lm2_jax.bench import context, prefill
from lm2_jax.bench.context import ARMT, FULL, MODELS, RMT, SEQUENTIAL, WAVEFRONT, WINDOW
from lm2_jax.config import Config, MemoryConfig, ModelConfig
from lm2_jax.errors import RunError
from lm2_jax.report import context as report
from lm2_jax.report.context import Contexts, Point

MODEL = ModelConfig(vocab_size=16, embed_dim=8, num_layers=2, num_heads=1, num_kv_heads=1,
                    mlp_dim=8, segment_length=4,
                    memory=MemoryConfig(num_slots=2, num_heads=1, num_layers=2))
CONFIG = Config(model=MODEL)


def points(model, seconds, peaks=(), sizes=(14, 15, 16, 17)):
    return [Point(model, f"{2**size >> 10}k", 2**size, (t,), peak) for size, t, peak in
            zip(sizes, seconds, peaks or [10**8] * len(sizes), strict=True)]


def test_each_model_has_the_backbone():
    for name in MODELS:
        model = context.variant(MODEL, name, 100)
        assert (model.embed_dim, model.num_layers, model.mlp_dim) == (8, 2, 8)
        assert model.segment_length == (100 if name == FULL else 4)
        assert bool(model.memory.num_layers) == (name not in (WINDOW, FULL))
        assert model.attention_window == (4 if name == WINDOW else 0)
        assert (model.schedule == "wavefront") == (name == WAVEFRONT)
    assert context.variant(MODEL, RMT, 9).memory.kind == "rmt"
    assert context.variant(MODEL, ARMT, 9).memory.num_slots == context.MEMORY_TOKENS


def test_what_was_measured_is_kept(tmp_path, monkeypatch):
    asked = []

    def child(work, minutes):
        asked.append((work.model, work.tokens, work.repeats))
        if work.model.segment_length > 16:
            return "out of memory"
        return {"seconds": [work.tokens / 1000] * 2, "peak": 10**8}

    monkeypatch.setattr(context, "_in_child", child)
    run = context.run, CONFIG, ("16", "20", "24"), (SEQUENTIAL, FULL), 2, 10.0, tmp_path
    found, text = printed(*run)
    # Full attention failed at 20, so that 24 was not tried.
    assert [tokens for _, tokens, _ in asked] == [16, 20, 24, 16, 20]
    assert [p.failure for p in found.points] == ["", "", "", "", "out of memory",
                                                 "out of memory (at 20)"]
    assert "out of memory (at 20)" in text and "context.png" in text
    again, _ = printed(*run)
    assert len(asked) == 5 and again.points == found.points
    stored = report.read(tmp_path / "context.json")
    assert stored.points == found.points
    more, _ = printed(context.run, CONFIG, ("16",), (WINDOW,), 2, 10.0, tmp_path)
    assert len(asked) == 6 and len(more.points) == 7
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, mlp_dim=16))
    with pytest.raises(ValueError, match="has measurements of another what; remove it") as caught:
        context.run(other, ("16",), (WINDOW,), 2, 10.0, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes,wanted", [
    ({"lengths": ("4",)}, "--lengths has 4; a context must be longer than model.segment_length"),
    ({"lengths": ()}, "must name one at least"), ({"models": ("LM3",)}, "--models has 'LM3'"),
    ({"repeats": 0}, "--repeats must be 1 at least"), ({"lengths": ("4x",)}, "--lengths is '4x'"),
    ({"config": Config()}, "it needs a config with model.memory.kind=lm2")])
def test_bad_arguments_are_refused_in_one_line(changes, wanted, tmp_path):
    arguments = dict(config=CONFIG, lengths=("16",), models=MODELS, repeats=1, minutes=1.0,
                     out=tmp_path)
    with pytest.raises(ValueError) as caught:
        context.run(**{**arguments, **changes})
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_context_is_read_as_a_stream_and_in_one_call(compiled_quickly):
    for name in (WAVEFRONT, FULL):
        work = prefill.Work(context.variant(MODEL, name, 23), 23, 0, 2, 0)
        assert prefill.Work.from_json(work.to_json()) == work
        found = prefill.measure(work)
        assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
        assert found["peak"] > 10**7


def test_what_the_table_says_follows_from_the_times():
    linear, quadratic = points(SEQUENTIAL, (1, 2, 4, 8.0)), points(FULL, (0.4, 1.6, 6.4, 25.6))
    assert report.exponent(linear) == pytest.approx(1)
    assert report.exponent(quadratic) == pytest.approx(2)
    assert report.exponent(points(FULL, (1, 9), sizes=(12, 14))) is None
    # 0.4 (x / 16k)^2 = x / 16k at 2.5 x 16k
    assert report.crossing(linear, quadratic) == pytest.approx(2.5 * 2**14)
    assert report.crossing(quadratic, linear) is None
    assert report.memory_spread(points(FULL, (1,) * 4, (100, 104, 103, 100))) == 1.04
    found = Contexts({"what": "w", "device": "d", "versions": "v", "date": "t", "note": "n"},
                     (SEQUENTIAL, WAVEFRONT), FULL,
                     [*linear, *points(WAVEFRONT, (0.5, 1, 1, 1.0)), *quadratic])
    said = " ".join(report.sentences(found))
    assert "to the power 1.000 from 16k to 128k" in said and "differs by 0.0 %" in said
    assert "2.00 at 16k, 2.00 at 32k, 4.00 at 64k, 8.00 at 128k" in said
    assert "faster than full attention from about 40,960 tokens on" in said
    row = report.table(found).sections[1][0]
    assert row[:2] == [WAVEFRONT, "16k"] and row[4:6] == ["32,768", "2.00"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_child_measures_or_says_why_not(tmp_path):
    work = prefill.Work(context.variant(MODEL, SEQUENTIAL, 300), 300, 0, 2, 0)
    found = context._in_child(work, 10.0)
    assert len(found["seconds"]) == 2
    large = dataclasses.replace(MODEL, embed_dim=4096, mlp_dim=4096, vocab_size=10**6)
    work = prefill.Work(context.variant(large, FULL, 4096), 4096, 0, 1, 4 * 2**30)
    assert context._in_child(work, 10.0) == "out of memory"
    assert context._in_child(dataclasses.replace(
        work, model=context.variant(MODEL, SEQUENTIAL, 10**6), tokens=10**6), 0.001
    ) == "over 0.001 min"
    with pytest.raises(RunError, match="reading 8 tokens failed: ") as caught:
        context._in_child(dataclasses.replace(work, model=dataclasses.replace(
            MODEL, vocab_size=0), tokens=8), 1.0)
    assert "\n" not in str(caught.value)
