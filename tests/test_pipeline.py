"""Training batches are a function of the config, the seed and the step."""

import dataclasses
import itertools

import numpy as np
import pytest
from absl import flags
from batch_sources import T, config_of, corpus_of, equal, source_of, tokenizer_of

from lm2_jax.config import Config
from lm2_jax.data.babi import story_sources
from lm2_jax.data.babilong import corpus
from lm2_jax.data.babilong.batches import SampleMaker
from lm2_jax.data.batches import iterate


@pytest.fixture(scope="module")
def batches():
    source = source_of(curriculum=((0, 2), (3, 4)), bare_fraction=0.3)
    return [source[step] for step in range(8)]


@pytest.mark.parametrize("first_step", [0, 3, 7, 8])
def test_batches_are_those_of_their_steps(batches, first_step):
    source = source_of(curriculum=((0, 2), (3, 4)), bare_fraction=0.3)
    for step in (5, 1, 5):  # asked before
        assert equal(source[step], batches[step])
    made = list(itertools.islice(iterate(source, first_step), 8 - first_step))
    assert len(made) == 8 - first_step
    assert all(map(equal, made, batches[first_step:]))


def test_worker_processes_make_the_same_batches(batches):
    flags.FLAGS.unparse_flags()  # as in a program that does not use absl
    source = source_of(curriculum=((0, 2), (3, 4)), bare_fraction=0.3)
    made = iterate(dataclasses.replace(source, num_steps=8), 1, num_workers=2)
    assert all(itertools.starmap(equal, zip(made, batches[1:], strict=True)))


def test_batches_end_with_the_run():
    source = source_of(batch_size=1, curriculum=((0, 1),))
    assert [len(list(iterate(source, step))) for step in (0, 39, 40)] == [40, 1, 0]


def test_a_host_makes_the_rows_of_the_whole_batch(batches):
    rows = (4, 1)
    local = source_of(rows={6: rows}, curriculum=((0, 2), (3, 4)), bare_fraction=0.3)[5]
    for field in dataclasses.fields(local):
        np.testing.assert_array_equal(getattr(local, field.name),
                                      getattr(batches[5], field.name)[list(rows)])


def test_seeds_steps_and_rows_differ():
    rows = [row.tobytes() for seed in range(3) for step in range(3)
            for row in source_of(seed)[step].tokens_BL]
    assert len(set(rows)) == len(rows) == 54


def test_training_and_held_out_text_differ():
    config = Config(seed=1, data=config_of())  # the seed of evaluation too
    held_out = corpus.held_out(config, tokenizer_of())
    training = corpus_of(config.data, seed=1)
    assert set(training.background.tokens[:200]) != set(held_out.background.tokens[:200])
    trained, asked = [{c.sources[0].draw(np.random.default_rng(i), None) for i in range(20)}
                      for c in (training, held_out)]
    assert not {story.facts for story in trained} & {story.facts for story in asked}
    assert {len(story.questions) for story in asked} == {5}  # as in bAbI; training asks more


def test_held_out_stories_are_those_of_the_test_file(tmp_path):
    for split, place in (("train", "hallway"), ("test", "kitchen")):
        text = f"1 Mary moved to the {place}.\n2 Where is Mary?\t{place}\t1\n"
        (tmp_path / f"qa1_x_{split}.txt").write_text(text)
    config = Config(data=config_of(babi=str(tmp_path)))
    for make, place in ((corpus.training, "hallway"), (corpus.held_out, "kitchen")):
        source, = make(config, tokenizer_of()).sources
        assert source.draw(np.random.default_rng(0), None).questions[0].answer == place


def test_digest_changes_with_what_the_batches_depend_on(tmp_path):
    first = source_of().digest()
    assert first == source_of(num_workers=3, rows={6: (1,)}).digest()
    others = [source.digest() for source in (
        source_of(seed=1), source_of(batch_size=5), source_of(tasks=("qa2",)),
        source_of(dense=False), source_of(curriculum=((0, 5),)), source_of(persons=2),
        source_of(background_sentences=401), source_of(loss_on_all=0.5))]
    source = source_of()
    others.append(dataclasses.replace(source, maker=SampleMaker(
        source.maker.config, source.maker.corpus, T + 1)).digest())
    other_words = dataclasses.replace(source.maker.corpus, encoder=dataclasses.replace(
        source.maker.corpus.encoder, tokenizer=corpus.make_tokenizer(config_of(), 0)))
    others.append(dataclasses.replace(source, maker=SampleMaker(
        source.maker.config, other_words, T)).digest())
    for place in ("hallway", "kitchen"):  # another content of the same file
        path = tmp_path / "qa1_x_train.txt"
        path.write_text(f"1 Mary moved to the {place}.\n2 Where is Mary?\t{place}\t1\n")
        from_file = dataclasses.replace(source.maker.corpus, sources=(
            story_sources.from_files("qa1", str(tmp_path), "train"),))
        others.append(dataclasses.replace(source, maker=SampleMaker(
            source.maker.config, from_file, T)).digest())
    assert len({first, *others}) == len(others) + 1
