"""The loss on held-out documents in the middle of a run, and what `lm2 data` shows of corpora."""

import dataclasses
import io
import re

import jax
import numpy as np
import pytest
import shard_cases

import lm2_jax as lm2
from lm2_jax.commands import data as inspection
from lm2_jax.commands.train import train
from lm2_jax.config import files
from lm2_jax.data import sources
from lm2_jax.data.babilong.corpus import HELD_OUT
from lm2_jax.runtime.console import Console
from lm2_jax.training.held_out import HeldOutLoss
from lm2_jax.training.writers import read_lines

T = 16


def config_of(*names, **changes):
    folders = [str(shard_cases.corpus(name)) for name in names]
    small = dict(embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=2, mlp_dim=16,
                 segment_length=T, memory=dict(num_slots=2, num_heads=2, num_layers=1))
    return files.from_dict(dict(
        model=small, eval=dict(lengths=(), batch_size=8), checkpoint=dict(every_steps=2),
        data=dict(source="corpus", corpora=folders, curriculum=((0, 2),), background_sentences=20),
        train=dict(num_steps=4, batch_size=8, warmup_steps=1, remat_segments=False,
                   eval_every_steps=2, held_out_batches=2)) | changes)


def printed(function, *args):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    return function(*args, console), console.file.getvalue()


@pytest.mark.processes  # a whole run
def test_the_held_out_loss_is_watched_and_measured_once(tmp_path, compiled_quickly):
    config = config_of("a", "mixed")
    rows, text = printed(train, config, tmp_path)
    assert {(row.corpus, row.memory) for row in rows} == {
        (corpus, memory) for corpus in config.data.corpora for memory in ("carried", "reset")}
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "held_out_loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert f"step {line['step']}: held-out loss {line['held_out_loss']:.4f} nats" in text
        assert line["seconds_step"] > 0
    # As computed by hand, of the last parameters.
    run = lm2.load(tmp_path)
    drawn_from = sources.open_training(config, run.tokenizer).held_out()
    source = sources.make_source(config.data, drawn_from, segment_length=T, seed=HELD_OUT,
                                 batch_size=8, num_steps=2)
    parts = [(source[step], float(source[step].loss_weight_BL.sum())) for step in range(2)]
    wanted = sum(weight * float(lm2.loss(run.config, run.variables, batch))
                 for batch, weight in parts) / sum(weight for _, weight in parts)
    assert lines[-1]["held_out_loss"] == pytest.approx(wanted, rel=1e-5)


def test_the_loss_is_the_mean_over_all_tokens(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "held_out_loss": 1.0}\n{"step": 4}\n')
    sums, written, called = iter([(6.0, 2.0), (1.0, 5.0)]), [], []
    held_out = HeldOutLoss(lambda params, batch: jax.numpy.array(next(sums)), ["one", "two"],
                           tmp_path, 3, lambda *line: written.append(line),
                           Console(file=io.StringIO()))
    assert [held_out.is_due(step) for step in (2, 4)] == [False, True]
    held_out.run(4, None, lambda: called.append(len(written)))
    assert written == [(4, {"held_out_loss": 1.0})] and called == [0, 0]
    assert not held_out.is_due(4)
    nothing = HeldOutLoss(None, [], tmp_path, 0, None, None)
    assert not nothing.is_due(4)


def test_a_mixture_with_a_corpus_without_held_out_documents_has_none(tmp_path):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 9))
    shard_cases.make([source], tmp_path / "x")
    source = shard_cases.source_of("a", tmp_path / "x")
    assert source.mixture.held_out() is None
    assert source.mixture.without_held_out == [str(tmp_path / "x")]
    assert shard_cases.source_of("a", "b").mixture.held_out().corpora[1].split == "held_out"


def test_rows_of_corpora_are_shown_as_they_are():
    config = config_of("mixed", seed=1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=6))
    _, text = printed(inspection.show, config, 3, 6)
    data = sources.batches(config)
    batch, t = data[3], data.tokenizer
    body = re.findall(r"^│(.*?)│(.*)│$", text, re.M)
    assert sum("●" in left for left, _ in body) == batch.reset_BS.sum()
    shown = " ".join(" ".join(line for _, line in body).split())
    padding = sum(map(int, re.findall(r"\+ (\d+) of padding", shown)))
    assert padding == (~batch.valid_BL).sum() > 0
    assert shown.count("■") == (batch.targets_BL[batch.valid_BL] == t.end_id).sum() > 0
    known = re.sub(r"■|\+ \d+ of padding", "", shown)
    whole = " ".join(t.decode(row[valid]) for row, valid in
                     zip(batch.tokens_BL, batch.valid_BL, strict=True))
    assert re.findall(r"\w", known) == re.findall(r"\w", whole)
    assert f"padding {1 - batch.valid_BL.mean():.1%}" in text


def test_completions_are_what_the_loss_underlines():
    source = shard_cases.source_of("mixed", segment_length=64, curriculum=((0, 1),))
    t, rows = source.mixture.tokenizer, source.rows_of(1)[0]
    found = 0
    for number in range(len(rows)):
        batch = jax.tree.map(lambda part: part[None], rows[number])
        if not batch.answer_BL.any():
            continue
        table = inspection._corpus_row(0, batch, t, {t.end_id})
        shown = list(table.columns[1].cells)[0]
        parts = {style: "".join(shown.plain[s.start:s.end] for s in shown.spans
                                if str(s.style) == style) for style in (
            "yellow", "bold green underline")}
        prompt = re.fullmatch(r"(\d+) plus \1 makes", parts["yellow"])
        assert prompt and parts["bold green underline"] == f" {2 * int(prompt[1])}, of course."
        assert np.flatnonzero(batch.answer_BL[0])[0] + 1 == len(t.encode(parts["yellow"]))
        found += 1
    assert found > 3
