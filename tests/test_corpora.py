"""Batches of tokenized corpora: rows, permutations, mixtures, hosts, workers, damaged shards."""

import collections
import dataclasses
import functools
import itertools
import json
import shutil

import cloudpickle
import numpy as np
import pytest
import shard_cases
from batch_sources import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_cases import source_of

from lm2_jax.config import Config, DataConfig, TrainConfig, files
from lm2_jax.data import batches, sources
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.shards import reading
from lm2_jax.data.shards.batches import open_corpora
from lm2_jax.data.shards.packing import Plan
from lm2_jax.errors import UserError

T = 16


# Packing.

@settings(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_a_plan_has_every_segment_once_and_cuts_long_documents_alone(sizes, S):
    plan = Plan(np.array(sizes), S)
    rows, seen = [plan[row] for row in range(len(plan))], collections.Counter()
    for pieces in rows:
        assert 1 <= sum(piece.segments for piece in pieces) <= S
        for piece in pieces:
            seen.update((piece.document, piece.first + i) for i in range(piece.segments))
            assert piece.first % S == 0
            assert piece.segments == min(S, sizes[piece.document] - piece.first)
    assert seen == collections.Counter(
        (document, segment) for document, size in enumerate(sizes) for segment in range(size))
    # As first-fit decreasing, item by item.
    room = []
    for rest in sorted((size % S for size in sizes if size % S), reverse=True):
        fits = next((i for i, left in enumerate(room) if left >= rest), None)
        if fits is None:
            room.append(S)
            fits = -1
        room[fits] -= rest
    assert len(plan) == sum(size // S for size in sizes) + len(room)


@pytest.mark.parametrize("S", [1, 3, 8])
def test_every_token_but_the_first_of_a_document_is_a_target_once(S):
    rows, = source_of("mixed").rows_of(S)
    documents = rows.documents
    found = collections.Counter()
    for number in range(len(rows)):
        row, (shard, pieces) = rows[number], rows.pieces(number)
        segment = 0
        for piece in pieces:
            tokens, prompt = documents.read(shard, piece.document)
            begin, there = piece.first * T, segment * T
            n = min(piece.segments * T, len(tokens) - 1 - begin)
            part = slice(there, there + n)
            assert row.reset_BS[segment] and not row.reset_BS[
                segment + 1:segment + piece.segments].any()
            np.testing.assert_array_equal(row.tokens_BL[part], tokens[begin:begin + n])
            np.testing.assert_array_equal(row.targets_BL[part], tokens[begin + 1:begin + 1 + n])
            completion = np.arange(begin + 1, begin + 1 + n) >= prompt
            np.testing.assert_array_equal(row.loss_weight_BL[part], completion.astype(np.float32))
            np.testing.assert_array_equal(row.answer_BL[part], completion & (prompt > 0))
            assert row.valid_BL[part].all() and not row.valid_BL[
                part.stop:there + piece.segments * T].any()
            found.update((shard, piece.document, i) for i in range(begin + 1, begin + 1 + n))
            segment += piece.segments
        assert not row.valid_BL[segment * T:].any() and not row.reset_BS[segment:].any()
        assert not row.loss_weight_BL[~row.valid_BL].any()
    assert found == collections.Counter(
        (shard, number, i) for shard in range(len(documents.shards))
        for number, tokens in enumerate(documents.index(shard)["tokens"].tolist())
        for i in range(1, tokens))
    padded = 1 - sum(found.values()) / (len(rows) * S * T)
    assert rows.padding() == pytest.approx(padded) and 0 < padded < 1


def test_prompts_have_the_configured_weight():
    rows, = source_of("mixed", loss_on_all=0.25).rows_of(4)
    for row in map(rows.__getitem__, range(len(rows))):
        prompted = row.valid_BL & (row.loss_weight_BL < 1)
        assert (row.loss_weight_BL[prompted] == 0.25).all()
    assert any((rows[i].loss_weight_BL == 0.25).any() for i in range(len(rows)))


# Order.

@functools.cache
def numbers(names, **changes):
    """The place of each row of 40 steps: its corpus and its number there."""
    source = source_of(*names, **changes)
    known = {}
    for corpus, rows in enumerate(source.rows_of(4)):
        for number in range(len(rows)):
            known[rows[number].tokens_BL.tobytes()] = corpus, number
    return [known[tokens.tobytes()] for step in range(40) for tokens in source[step].tokens_BL]


def test_an_epoch_is_a_permutation_of_its_own():
    count = len(source_of("a").rows_of(4)[0])
    orders = {}
    for seed in (0, 1):
        order = [number for _, number in numbers(("a",), seed=seed, batch_size=16)]
        epochs = [tuple(order[i:i + count]) for i in range(0, len(order) - count, count)]
        assert len(epochs) > 3
        for epoch, numbers_ in enumerate(epochs):
            assert sorted(numbers_) == list(range(count))
            orders[seed, epoch] = numbers_
    # Seed s + 1 does not repeat the epochs of seed s, one later.
    assert len(set(orders.values())) == len(orders)
    assert (0, *range(1, count)) not in orders.values()


def test_corpora_have_their_shares_in_every_stretch():
    order = [corpus for corpus, _ in numbers(("a", "b"), corpus_weights=(1.0, 3.0))]
    for first, last in itertools.combinations(range(0, len(order), 7), 2):
        assert abs(np.sum(order[first:last]) - 0.75 * (last - first)) <= 1.5
    by_size = [corpus for corpus, _ in numbers(("a", "b"))]
    sizes = [len(rows) for rows in source_of("a", "b").rows_of(4)]
    assert np.mean(by_size) == pytest.approx(sizes[1] / sum(sizes), abs=0.02)


def test_two_equal_corpora_have_orders_of_their_own():
    order = numbers(("a", "a"))  # the second is not known by its tokens
    half = len(order) // 2 * 2
    assert order[0:half:2] != order[1:half:2]


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = source_of("a", "mixed"), source_of("a", "mixed")
    backwards = {step: other[step] for step in reversed(range(30))}
    assert all(equal(one[step], backwards[step]) for step in range(30))
    assert not equal(one[3], one[4])
    assert not equal(one[3], source_of("a", "mixed", seed=1)[3])


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 50))
def test_hosts_have_the_rows_of_the_global_batch(rows, step):
    whole = source_of("a", "b", batch_size=8)
    host = dataclasses.replace(whole, rows={8: tuple(sorted(rows))})
    for mine, all_rows in zip(dataclasses.astuple(host[step]), dataclasses.astuple(whole[step]),
                              strict=True):
        np.testing.assert_array_equal(mine, all_rows[sorted(rows)])


@pytest.mark.parametrize("first,num_workers", [
    (0, 0), (5, 0), pytest.param(7, 2, marks=pytest.mark.processes)])
def test_workers_and_where_a_run_resumes_change_no_batch(first, num_workers):
    source = source_of("a", "mixed", num_steps=12)
    sent = cloudpickle.loads(cloudpickle.dumps(source))  # as to a worker
    for step, batch in enumerate(batches.iterate(sent, first, num_workers=num_workers), first):
        assert equal(batch, source[step])
    assert step == 11


def test_stages_have_rows_of_their_length_and_begin_with_an_epoch():
    stages = ((0, 1, 8), (3, 4, 2), (9, 2))
    source = source_of("a", curriculum=stages)
    assert [source[step].tokens_BL.shape for step in (0, 3, 8, 9)] == [
        (8, T), (2, 4 * T), (2, 4 * T), (4, 2 * T)]
    # A stage that ends early: the next has the batches that it would have had.
    sooner = source.with_curriculum(((0, 1, 8), (2, 4, 2), (8, 2)))
    assert equal(sooner[2], source[3]) and equal(sooner[8], source[9])
    # Its first rows are not those that another stage of the same length began with.
    again = source_of("a", curriculum=((0, 4, 2), (3, 4, 2)))
    assert not equal(again[0], again[3])


def test_the_digest_names_what_batches_depend_on():
    digest = source_of("a").digest()
    assert digest == source_of("a").digest() == source_of("a", num_workers=3).digest()
    others = [source_of("b"), source_of("a", "b"), source_of("a", seed=1), source_of(
        "a", segment_length=8), source_of("a", batch_size=2), source_of("a", loss_on_all=0.5),
        source_of("a", curriculum=((0, 2),)), source_of("a", "b", corpus_weights=(1.0, 2.0))]
    assert len({digest, *(source.digest() for source in others)}) == len(others) + 1


# What is refused.

def copied(tmp_path, name="a"):
    return shutil.copytree(shard_cases.corpus(name), tmp_path / name)


def flip(folder):
    """One bit of the first record of a shard."""
    path = folder / "train-00002.array_record"
    record = reading.array_record_module.ArrayRecordReader(str(path), "").read([0])[0]
    content = bytearray(path.read_bytes())
    content[content.index(record) + 9] ^= 1
    path.write_bytes(content)


def rewritten(folder):
    """The first shard with other tokens, of the same lengths."""
    found = reading.open_split(folder, "train", tokenizers.load(folder))
    name, documents = found.shards[0].name, [found[i] for i in range(found.shards[0].documents)]
    writer = reading.array_record_module.ArrayRecordWriter(
        str(folder / f"{name}.array_record"), "group_size:1,uncompressed")
    for tokens, prompt in documents:
        writer.write(np.uint32(prompt).tobytes() + tokens[::-1].astype("<u2").tobytes())
    writer.close()


@pytest.mark.parametrize("damage,wanted", [
    (lambda f: (f / "train-00001.array_record").unlink(), "train-00001.array_record is missing"),
    (lambda f: (f / "train-00001.index.npy").unlink(), "train-00001.index.npy is missing"),
    (lambda f: (f / "train-00001.array_record").write_bytes(
        (f / "train-00001.array_record").read_bytes()[:-1]),
     "train-00001.array_record has .* bytes, not .* cut short or exchanged"),
    (lambda f: shutil.copy(f / "train-00000.array_record", f / "train-00001.array_record"),
     r"train-00001.array_record, record \d+, is not the one that was written|exchanged"),
    (lambda f: shutil.copy(f / "train-00000.index.npy", f / "train-00001.index.npy"),
     "train-00001.index.npy is not that of the manifest"),
    (rewritten, "train-00000.array_record, record 0, is not the one that was written there"),
    (flip, "train-00002.array_record, record 0, is damaged: .*hash mismatch"),
    (lambda f: (f / "manifest.json").unlink(), "no tokenized corpus at .*lm2 data tokenize"),
    (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json is not a manifest"),
    (lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace(
        '"version": 1', '"version": 7')), "is of version 7"),
], ids=["no shard", "no index", "truncated", "exchanged", "other index", "rewritten", "flipped",
        "no manifest", "empty manifest", "version"])
def test_damaged_shards_are_refused_by_name_at_the_start(tmp_path, damage, wanted):
    folder = copied(tmp_path)
    damage(folder)
    reading._reader.cache_clear()
    reading._index.cache_clear()
    with pytest.raises(UserError, match=wanted) as error:
        source_of(folder)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_another_tokenizer_is_refused(tmp_path):
    folder = copied(tmp_path)
    tokenizers.train(["other text"], kind="bpe", vocab_size=300).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="/a was made with another tokenizer"):
        source_of(folder, tokenizer=str(tmp_path / "tokenizer.json"))
    shutil.copytree(shard_cases.corpus("b"), tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest | {"tokenizer": "0" * 64}))
    with pytest.raises(UserError, match="/b was made with another tokenizer"):
        source_of(folder, tmp_path / "b")


@pytest.mark.parametrize("changes,wanted", [
    (dict(data=DataConfig(source="corpus", corpora=("x",)), train=TrainConfig(
        advance_accuracy=0.5)), "train.advance_accuracy is 0.5"),
    (dict(source="corpus"), "data.corpora"), (dict(source="books"), "data.source is 'books'"),
    (dict(corpora=("a", "b"), corpus_weights=(1.0,)), "data.corpus_weights"),
    (dict(corpora=("a",), corpus_weights=(0.0,)), "data.corpus_weights"),
])
def test_configs_that_cannot_be_used_are_refused(changes, wanted):
    with pytest.raises(UserError, match=wanted):
        Config(**changes) if "train" in changes else DataConfig(**changes)


def test_batches_of_a_config_need_no_workdir():
    config = files.from_dict(dict(
        data=dict(source="corpus", corpora=(str(shard_cases.corpus("a")),), curriculum=((0, 2),)),
        model=dict(segment_length=T), train=dict(batch_size=3)))
    data = sources.batches(config)
    assert data.config.model.vocab_size == 512 and data[0].tokens_BL.shape == (3, 2 * T)
    held_out = sources.open_held_out(config, open_corpora(config.data, data.tokenizer))
    trained = {row.tobytes() for row in data[0].tokens_BL}
    source = sources.make_source(config.data, held_out, segment_length=T, seed=0, batch_size=3,
                                 num_steps=1)
    assert not trained & {row.tobytes() for row in source[0].tokens_BL}
    assert held_out.corpora[0].split == "held_out"
