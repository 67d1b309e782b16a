"""What `lm2 data`, `lm2 bench data` and `lm2 bench eval` print."""

import dataclasses
import io
import re

import numpy as np
import pytest

from lm2_jax.bench import data as bench
from lm2_jax.bench import eval as bench_eval
from lm2_jax.commands import data as inspection
from lm2_jax.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from lm2_jax.data.babilong import corpus, mixing
from lm2_jax.data.babilong.batches import BabilongBatches, SampleMaker
from lm2_jax.data.babilong.kinds import ANSWER, FACT, QUESTION, kinds_of
from lm2_jax.generation import decoding
from lm2_jax.generation import engine as engines
from lm2_jax.generation import reading as readings_of
from lm2_jax.runtime.console import Console

T = 48


def config_of(**changes):
    data = {"background_sentences": 300, "tokenizer_vocab_size": 256, "curriculum": ((0, 2),)}
    return Config(data=DataConfig(**data | changes), model=ModelConfig(segment_length=T),
                  train=TrainConfig(batch_size=4))


def printed(function, *args):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    result = function(*args, console)
    return result, console.file.getvalue()


def test_rows_are_shown_as_they_are():
    config = config_of(bare_fraction=0.5, loss_on_all=0.25, points_per_segment=0.5)
    _, text = printed(inspection.show, config, 3, 4)
    words = corpus.make_tokenizer(config.data, 0)
    maker = SampleMaker(config.data, corpus.training(config, words), T)
    batch = BabilongBatches(maker, 0, 4, 1000)[3]
    assert re.findall(r"row \d+", text) == [f"row {row}" for row in range(4)]
    body = re.findall(r"^│(.*?)│(.*)│$", text, re.M)
    shown = " ".join(" ".join(line for _, line in body).split())
    for row in batch.tokens_BL:
        for answer in np.split(row, np.flatnonzero(row == words.answer_id) + 1)[1:]:
            written = words.decode(answer[:list(answer).index(words.end_id)]).strip()
            assert f"→ {written} ■" in shown
    unknown = words.encode("zeppelin")[0]
    for mark, token in (("→", words.answer_id), ("■", words.end_id), ("◌", unknown)):
        assert shown.count(mark) == (batch.tokens_BL == token).sum() > 0
    padding = sum(map(int, re.findall(r"\+ (\d+) of padding", shown)))
    assert padding == (~batch.valid_BL).sum() > 0
    assert sum("●" in left for left, _ in body) == batch.reset_BS.sum()
    known = re.sub(r"[→■◌]|\+ \d+ of padding", "", shown)
    whole = " ".join(words.decode(row[valid]) for row, valid in
                     zip(batch.tokens_BL, batch.valid_BL, strict=True))
    assert re.findall(r"\w+", known) == re.findall(r"\w+", whole)
    facts = " ".join(text.splitlines()[-2:])
    assert f"padding {1 - batch.valid_BL.mean():.1%}" in facts and "4 rows of 2 x 48" in facts
    assert (f"{batch.reset_BS.sum() / 4:.1f} samples and "
            f"{(batch.tokens_BL == words.answer_id).sum() / 4:.1f} answers") in facts
    assert "elsewhere 0.25" in text


def test_facts_questions_and_answers_are_told_apart():
    data = corpus.training(config_of(), corpus.make_tokenizer(config_of().data, 0))
    for index in range(20):
        rng = np.random.default_rng(index)
        pieces = mixing.pieces_of(data.sources[0].draw(rng, 6), data.encoder, 5, dense=True)
        sample = mixing.mix(pieces, 300, data.background, rng, last_at_end=False).sample()
        kinds = kinds_of(sample.tokens, data.encoder)
        for kind, parts in {
                FACT: [p.tokens for p in pieces if p.answer == len(p.tokens)],
                QUESTION: [p.tokens[:p.answer] for p in pieces
                                      if p.answer < len(p.tokens)],
                ANSWER: [p.tokens[p.answer:] for p in pieces]}.items():
            np.testing.assert_array_equal(sample.tokens[kinds == kind], np.concatenate(parts))


def test_answers_are_what_the_loss_underlines():
    config = config_of()
    drawn_from = corpus.training(config, corpus.make_tokenizer(config.data, 0))
    batch = BabilongBatches(SampleMaker(config.data, drawn_from, T), 0, 4, 1000)[0]
    table = inspection._row(0, batch, drawn_from.encoder)
    text = list(table.columns[1].cells)[0]
    underlined = "".join(text.plain[span.start:span.end] for span in text.spans
                         if "underline" in str(span.style))
    t, tokens = drawn_from.encoder.tokenizer, batch.tokens_BL[0, :T]
    answers = [t.decode(part[:list(part).index(t.end_id)]).strip() + "■"
               for part in np.split(tokens, np.flatnonzero(tokens == t.answer_id) + 1)[1:]]
    assert underlined == "".join(answers) != ""


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="--step is -1"):
        inspection.show(config_of(), -1, 2)


def test_the_bench_counts_what_it_makes():
    rates, text = printed(bench.run, config_of(), 0.2)
    assert len(rates) == 4 and "tokens/s" in text and "qa1 of the simulator" in text
    for rate in rates:
        assert rate.tokens == rate.batches * 4 * 86 * T > 0
        assert rate.seconds >= 0.05 and rate.cpu_seconds > 0
    assert all(rate.samples > rate.batches * 4 for rate in rates[:2])
    assert all(rate.samples == rate.batches * 4 for rate in rates[2:])


def test_lengths_are_read_in_turn_when_all_is_compiled(monkeypatch, compiled_quickly):
    model = ModelConfig(embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, mlp_dim=8,
                        segment_length=T)
    asked, ask = [], engines.Engine.answer

    def compiled():
        return sum(f._cache_size() for f in (readings_of.first_state, readings_of.advance_in_place,
                                             decoding.begin, decoding.step))

    def answer(engine, prompts, *args, **options):
        asked.append((*map(len, prompts), compiled()))
        return ask(engine, prompts, *args, **options)

    monkeypatch.setattr(engines.Engine, "answer", answer)
    config = dataclasses.replace(config_of(tasks=("qa2", "qa1")), model=model,
                                 eval=EvalConfig(max_samples=(9,)))
    readings, text = printed(bench_eval.run, config, ("500", "2k"))
    (warm, _), *sizes = asked
    assert warm == (readings_of.CHUNK + 2) * T and len(sizes) == 2
    assert {count for _, count in sizes} == {compiled()}
    assert [(r.length, r.tokens) for r in readings] == [
        (length, tokens) for length, (tokens, _) in zip(("500", "2k"), sizes, strict=True)]
    assert 490 < readings[0].tokens < 500 < 2030 < readings[1].tokens < 2048
    rows = [line.split() for line in text.splitlines() if re.match(" *(500|2k) ", line)]
    for row, reading in zip(rows, readings, strict=True):
        assert row[1:4] == [f"{reading.tokens:,}", f"{reading.seconds:.2f}",
                            f"{reading.tokens / reading.seconds:,.0f}"]
        assert row[4:] == [f"{reading.rate / readings[0].rate:.3f}", f"{reading.resident:,.1f}",
                           f"{reading.resident / readings[0].resident:.3f}"]
        assert 50 < reading.resident < 50_000
    assert "qa2, one row on one device" in text and "MB resident" in text
    total = warm + sum(reading.tokens for reading in readings)
    assert f"bench eval {total}/{total} tokens" in text
