"""Perplexity of held-out documents: against logits of whole documents, and counts of raw text."""

import dataclasses
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import shard_cases
from model_cases import make_config

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.commands import evaluate
from lm2_jax.config import Config, DataConfig, EvalConfig
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import reading
from lm2_jax.errors import UserError
from lm2_jax.eval import documents as reader
from lm2_jax.eval import perplexity, perplexity_evaluator
from lm2_jax.eval.documents import Document, DocumentReader
from lm2_jax.eval.perplexity import Measured
from lm2_jax.eval.perplexity_evaluator import PerplexityEvaluator
from lm2_jax.report import perplexity as shown
from lm2_jax.runtime.console import Console

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, LONGEST = 8, 512
MESH = partition.make_mesh({"data": 1}, jax.devices()[:1])
MODEL = make_config(T=T, M=4, P=1, window=11, vocab_size=400, num_layers=1)
PARAMS = jax.tree.map(jnp.asarray, reference.params(MODEL))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Four segments go to the device at once, and logits of four tokens are there at once."""
    monkeypatch.setattr(reader, "CHUNK", 4)
    monkeypatch.setattr(reader, "LOGITS", 3 * 400 * 5)


def config_of(*names, model=MODEL, data=None, **changes):
    folders = tuple(str(shard_cases.corpus(name)) for name in names)
    values = dict(corpora=folders, lengths=(), batch_size=3, max_document_segments=0) | changes
    return Config(model=model, data=data or DataConfig(), eval=EvalConfig(**values))


def evaluator_of(*names, **changes):
    return PerplexityEvaluator(config_of(*names, **changes), tokenizers.load(shard_cases.words()),
                               MESH)


def held_out(name):
    documents = reading.open_split(shard_cases.corpus(name), "held_out",
                                   tokenizers.load(shard_cases.words()))
    return documents, np.concatenate([documents.index(i) for i in range(len(documents.shards))])


def nats_of_logits(tokens, wipe):
    """The cross-entropy of each target by the logits of one call, or of one call a segment, each
    with the initial memory and the window that the segment before left."""
    read, targets = tokens[:-1], tokens[1:]
    parts = [read[i:i + T] for i in range(0, len(read), T)] if wipe else [read]
    model, logits, state = lm2.LanguageModel(MODEL), [], lm2.init_state(MODEL, 1)
    for part in parts:
        padded = np.zeros((1, T if wipe else LONGEST), np.int32)
        padded[0, :len(part)] = part
        state = state.replace(memory=lm2.init_state(MODEL, 1).memory)
        out = lm2.apply_segments(model, PARAMS, padded, state,
                                 np.arange(padded.shape[1])[None] < len(part))
        logits.append(out.logits[0, :len(part)])
        state = out.state
    return np.asarray(optax.softmax_cross_entropy_with_integer_labels(
        jnp.concatenate(logits), jnp.asarray(targets)), np.float64)


@pytest.mark.parametrize("wipe", [False, True])
def test_losses_are_those_of_the_logits_of_whole_documents(wipe):
    rng, read, asked = np.random.default_rng(0), [], []
    documents = [Document(rng.integers(0, 400, n, np.int32), prompt)
                 for n, prompt in ((5 * T + 4, 0), (T + 1, 5), (2, 0))]
    found = DocumentReader(lm2.LanguageModel(MODEL), PARAMS, MESH, pad_id=0).losses(
        documents, wipe=wipe, batch_size=2, progress=read.append, between=lambda: asked.append(1))
    for document, nats_S in zip(documents, found, strict=True):
        nats = nats_of_logits(document.tokens, wipe)
        counted = [i + 1 >= document.prompt for i in range(len(nats))]
        wanted = [np.sum((nats * counted)[i:i + T]) for i in range(0, len(nats), T)]
        np.testing.assert_allclose(nats_S, wanted, rtol=2e-5)
    assert sum(read) == 5 * T + 3 + T + 1 and len(asked) == 3


def test_rows_are_ratios_of_sums_over_documents_and_of_counts_of_the_text():
    evaluator = evaluator_of("mixed")
    documents, index = held_out("mixed")
    results = list(evaluator.run(PARAMS))
    rows = {(row.segments, row.memory): row for row, _ in results}
    prompts = [documents[i][1] for i in range(len(documents))]
    assert min(prompts) == 0 < max(prompts)
    source = (shard_cases.temporary() / "mixed.jsonl").read_text().splitlines()
    texts = map(json.loads, source)
    known = {len((row.get("text") or row["completion"]).encode()) for row in texts}
    assert set(index["bytes"].tolist()) <= known
    sums = perplexity.sums("mixed", results[0][1])
    for mode in ("carried", "reset"):
        row = rows["all", mode]
        own = [one for one in sums if one.memory == mode]
        assert sorted(one.document for one in own) == list(range(len(documents)))
        assert sum(one.nats for one in own) / sum(one.tokens for one in own) == pytest.approx(
            row.loss)
        assert all(one.bytes == index["bytes"][one.document] for one in own)
        nats = sum(nats_of_logits(tokens, mode == "reset")[max(prompt - 1, 0):].sum()
                   for tokens, prompt in map(documents.__getitem__, range(len(documents))))
        tokens = int(index["tokens"].sum()) - sum(max(prompt, 1) for prompt in prompts)
        assert (row.documents, row.tokens) == (len(documents), tokens)
        assert row.loss == pytest.approx(nats / tokens, rel=1e-5)
        assert row.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert row.bits_per_byte == pytest.approx(
            nats / math.log(2) / index["bytes"].sum(), rel=1e-5)
        assert math.log(row.word_perplexity) == pytest.approx(nats / index["words"].sum(), rel=1e-5)
        parts = [row for (segments, memory), row in rows.items()
                 if memory == mode and segments != "all"]
        assert [row.segments for row in parts][:4] == ["0", "1", "2-3", "4-7"]
        for name in ("tokens", "words", "bytes"):
            total = sum(getattr(part, name) for part in parts)
            assert total == pytest.approx(getattr(row, name), abs=0.1 * len(parts))
    for segments in ("0", "2-3", "all"):
        carried, wiped = rows[segments, "carried"], rows[segments, "reset"]
        assert carried.saved == pytest.approx(wiped.loss - carried.loss, abs=1e-9)
        assert (carried.saved == 0) == (segments == "0") and wiped.saved is None


def test_bytes_and_words_of_segments_are_those_of_their_texts():
    evaluator, T_long = evaluator_of("a", model=dataclasses.replace(MODEL, segment_length=32)), 32
    selection, words = evaluator.selections[0], evaluator.tokens
    text = words.decode(selection[0].tokens)
    S = selection[0].num_segments(T_long)
    found = selection.measured(0, {"carried": np.zeros(S)}, words, T_long)
    for name, size in (("bytes", len), ("words", lambda part: len(part.split()))):
        ends = [size(words.decode(selection[0].tokens[:i * T_long + 1])) for i in range(1, S)]
        got = np.cumsum(getattr(found, name))
        np.testing.assert_allclose(got[:-1], ends, atol=4)
        assert got[-1] == pytest.approx(size(text))


def test_an_interval_covers_the_ratio_of_the_population():
    rng, covered = np.random.default_rng(0), []
    for _ in range(1000):
        sizes = rng.integers(50, 150, 9)
        nats = sizes * (3 + 0.3 * rng.standard_normal(9)) + 5 * rng.standard_normal(9)
        value, (low, high) = perplexity.ratio(nats, sizes)
        assert value == pytest.approx(sum(nats) / sum(sizes))
        covered.append(low <= 3 <= high)
    assert 0.93 < np.mean(covered) < 0.97
    # The jackknife is nearly the same estimate.
    drop = np.array([(nats.sum() - a) / (sizes.sum() - b) for a, b in zip(nats, sizes,
                                                                       strict=True)])
    error = math.sqrt(8 / 9 * np.sum((drop - drop.mean()) ** 2))
    assert high - value == pytest.approx(2.306 * error, rel=0.05)
    assert perplexity.ratio(np.array([6.0]), np.array([2])) == (3, None)
    assert perplexity.ratio(np.array([6.0]), np.array([0])) == (None, None)


@pytest.mark.parametrize("segments", [1, 2, 3, 7, 8, 9])
def test_groups_of_segments_double(segments):
    groups = perplexity.ranges(segments)
    covered = [i for first, end in groups for i in range(first, end)]
    assert covered == list(range(len(covered))) and len(covered) >= segments
    assert groups[-1][0] < segments and all(end - first == max(first, 1) for first, end in groups)


def test_a_text_without_words_has_no_perplexity_of_words():
    none = Measured({"carried": np.array([2.0, 900.0])}, np.array([1, 1]), np.zeros(2),
                    np.array([0.0, 1.0]))
    zero, one, whole = perplexity.rows("c", [none])
    assert (zero.word_perplexity, zero.bits_per_byte) == (None, None) and whole.documents == 1
    assert one.perplexity == 1e308 and whole.loss == 451 and whole.loss_interval is None
    assert shown.tables([zero, one, whole], T)[0][0].markdown().count("-") >= 2


class Stopped(Exception):
    pass


def run(evaluator, folder, patience=1000):
    """Evaluates in a workdir; returns the rows, what was printed, and calls of `between`."""
    calls = []

    def between():
        calls.append(1)
        if len(calls) > patience:
            raise Stopped

    console = Console(file=io.StringIO(), width=150)
    rows = evaluate.report([evaluator], PARAMS, 3, folder, console, between)
    return rows, console.file.getvalue(), len(calls)


def test_an_interrupted_evaluation_goes_on_and_gives_the_same(tmp_path):
    whole, printed, calls = run(evaluator_of("a", "mixed"), tmp_path / "whole")
    evaluator = evaluator_of("a", "mixed")
    total = sum(2 * sum(s.tokens) for s in evaluator.selections)
    for patience in (calls // 3, calls // 3):
        with pytest.raises(Stopped):
            run(evaluator, tmp_path / "again", patience)
        assert (tmp_path / "again/eval/perplexity/unfinished.jsonl").exists()
    read, run_all = [], evaluator.run
    evaluator.run = lambda *args, progress, **options: run_all(
        *args, progress=lambda n, text: read.append(n) or progress(n, text), **options)
    again, *_ = run(evaluator, tmp_path / "again")
    assert again == whole
    assert 0 < sum(read) < total / 2
    folder = tmp_path / "again" / "eval" / "perplexity"
    assert {path.name for path in folder.iterdir()} == {
        "perplexity.json", "documents.json", "perplexity.png", "provenance.json", ".lock"}
    assert perplexity.read_rows(folder) == whole
    for row in whole:
        if row.memory == "carried":
            assert f"{row.loss:.4f}" in printed and f"{row.bits_per_byte:.4f}" in printed
            assert f"{row.saved:.4f}" in printed


def test_answers_of_a_finished_evaluator_are_kept_until_all_are_finished(tmp_path):
    first, second = evaluator_of("a", max_documents=3), evaluator_of("a")
    second.name = "second"

    def stop(*_, **__):
        raise Stopped
        yield

    second.run = stop
    with pytest.raises(Stopped):
        evaluate.report([first, second], PARAMS, 3, tmp_path, Console(file=io.StringIO()))
    assert (tmp_path / "eval/perplexity/unfinished.jsonl").exists()
    read = []
    first.run, run_first = lambda *args, progress, **options: run_first(
        *args, progress=lambda n, text: read.append(n), **options), first.run
    rows = evaluate.report([first], PARAMS, 3, tmp_path, Console(file=io.StringIO()))
    assert rows and sum(read) == 0


def test_which_documents_are_measured(tmp_path):
    source = shard_cases.write(tmp_path / "x.jsonl", shard_cases.texts(1, 9))
    shard_cases.make([source], tmp_path / "x")
    own = DataConfig(source="corpus", corpora=(str(shard_cases.corpus("a")), str(tmp_path / "x")))
    evaluator = evaluator_of(data=own, max_documents=4, max_document_segments=2)
    documents, index = held_out("a")
    (selection,) = evaluator.selections
    assert evaluator.notes == [f"{tmp_path / 'x'} has no held-out documents: no perplexity of it"]
    assert len(set(selection.numbers)) == len(selection) == 4 < len(documents)
    assert selection.tokens == sorted(np.minimum(index["tokens"][selection.numbers] - 1, 2 * T),
                                      reverse=True)
    assert all(len(selection[i].tokens) == n + 1 for i, n in enumerate(selection.tokens))
    other = evaluator_of(data=own, max_documents=4, max_document_segments=2, seed=5)
    assert sorted(other.selections[0].numbers) != sorted(selection.numbers)
    assert len({json.dumps(e.identity(PARAMS, 3)) for e in (evaluator, other)}) == 2
    unseen = evaluator_of(data=dataclasses.replace(own, corpora=(str(tmp_path / "x"),)))
    assert run(unseen, tmp_path) == ([], f"{evaluator.notes[0]}\n", 0)
    with pytest.raises(UserError, match="x has no held-out documents"):
        PerplexityEvaluator(config_of(corpora=(str(tmp_path / "x"),)), evaluator.tokens, MESH)
    with pytest.raises(UserError, match="made with another tokenizer"):
        PerplexityEvaluator(config_of("a"), tokenizers.train(["a b"], kind="bpe", vocab_size=300),
                            MESH)


def test_what_there_is_nothing_of(tmp_path):
    for key, changes in (("eval.memory", dict(memory=())), ("eval.corpora", dict(corpora=())),
                         ("eval.max_documents", dict(max_documents=0))):
        evaluator = evaluator_of("a", **changes)
        assert evaluator.empty_key == key and not evaluator.selections
        assert run(evaluator, tmp_path) == ([], f"{key} is empty: no evaluation\n", 0)
    alone = evaluator_of("a", model=dataclasses.replace(
        MODEL, memory=dataclasses.replace(MODEL.memory, num_layers=0)))
    assert alone.modes == ["carried"]
    with pytest.raises(UserError, match=r"eval\.lengths is empty"):
        lm2.evaluate(config_of(corpora=()), tmp_path)
    assert perplexity_evaluator.empty_key(config_of("a")) == ""
