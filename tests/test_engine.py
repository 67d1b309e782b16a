"""Answers against a model that reads everything again for each new token (float64 NumPy)."""

import functools

import jax
import numpy as np
import pytest
import reference

from lm2_jax import partition
from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.generation import decoding
from lm2_jax.generation import engine as engines
from lm2_jax.generation import reading as readings
from lm2_jax.generation.engine import Engine
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, V = 5, 24
NEW = T + 3  # so that every answer crosses the border of a segment
LENGTHS = (1, T - 1, T, T + 1, 3 * T + 5)
NEVER = V  # an end mark that no model says


def make_config(memory_layers, window=0):
    return ModelConfig(vocab_size=V, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
                       mlp_dim=24, segment_length=T, attention_window=window,
                       memory=MemoryConfig(num_slots=3, num_heads=2, num_layers=memory_layers))


CONFIGS = {"memory in all blocks": make_config(2), "no memory": make_config(0),
           "memory and window": make_config(1, window=7),
           "window on all that was read": make_config(0, window=500)}


@functools.cache
def prompts():
    rng = np.random.default_rng(5)
    return tuple(rng.integers(0, V, length, np.int32) for length in LENGTHS)


@functools.cache
def variables(name):
    return reference.params(CONFIGS[name], seed=2)


@functools.cache
def naive(name, row, wipe):
    """The answer to a prompt, each token from reading all that comes before it."""
    config, tokens = CONFIGS[name], list(prompts()[row])
    for _ in range(NEW):
        resets = np.full(-(-len(tokens) // T), wipe)
        logits_LV, _ = reference.sequence(variables(name), config, np.array(tokens),
                                          reset_S=resets)
        second, first = np.sort(logits_LV[-1])[-2:]
        assert first - second > 1e-4  # or rounding might decide
        tokens.append(int(logits_LV[-1].argmax()))
    return tokens[len(prompts()[row]):]


def answers(name, rows, wipe=False, end_id=NEVER, new=NEW, **options):
    engine = Engine(LanguageModel(CONFIGS[name]), variables(name), pad_id=0, stop_ids={end_id})
    return engine.answer([prompts()[row] for row in rows], new, wipe=wipe, **options)


ROWS = range(len(LENGTHS))


@pytest.mark.parametrize("wipe", [False, True], ids=["carried", "wiped"])
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_reading_everything_again(name, wipe):
    wanted = [naive(name, row, wipe) for row in ROWS]
    assert answers(name, ROWS, wipe) == wanted
    assert len(set(map(tuple, wanted))) > 2


@pytest.mark.parametrize("name", CONFIGS)
def test_wiping_matters_where_something_is_carried(name):
    carried, wiped = ([naive(name, row, wipe) for row in ROWS] for wipe in (False, True))
    assert (carried != wiped) == (name != "no memory")


def test_a_row_does_not_depend_on_the_others():
    name = "memory and window"
    for row in ROWS:
        assert answers(name, [row]) == [naive(name, row, False)]
    assert answers(name, ROWS[::-1]) == [naive(name, row, False) for row in ROWS[::-1]]


@pytest.mark.parametrize("chunk", [2, 3, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_segments_in_runs_give_the_same_answers(name, chunk, monkeypatch):
    monkeypatch.setattr(readings, "CHUNK", chunk)
    seen = []
    assert answers(name, ROWS, progress=seen.append) == [naive(name, row, False) for row in ROWS]
    full = (max(LENGTHS) - 1) // T
    assert sum(seen) == sum(LENGTHS) and len(seen) == 1 + full // chunk + full % chunk


def test_an_answer_stops_before_the_end_mark():
    name = "memory in all blocks"
    full = [naive(name, row, False) for row in ROWS]
    stopped = 0
    for end_id in {token for answer in full for token in answer}:
        wanted = [answer[:answer.index(end_id)] if end_id in answer else answer
                  for answer in full]
        assert answers(name, ROWS, end_id=end_id) == wanted
        stopped += sum(len(answer) < NEW for answer in wanted)
    assert stopped >= len(ROWS)
    assert answers(name, ROWS, new=2) == [answer[:2] for answer in full]


def test_progress_counts_every_token_of_the_prompts_once():
    seen = []
    answers("no memory", ROWS, progress=seen.append)
    assert sum(seen) == sum(LENGTHS) and len(seen) == -(-max(LENGTHS) // T)


def test_a_batch_filled_up_gives_the_same_answers_and_counts_no_more():
    name, seen = "memory in all blocks", []
    rows = ROWS[1:3]
    filled = answers(name, rows, batch_size=len(ROWS), progress=seen.append)
    assert filled == [naive(name, row, False) for row in rows]
    assert sum(seen) == sum(LENGTHS[row] for row in rows)


def test_evaluating_again_compiles_nothing():
    name = "memory in all blocks"
    answers(name, ROWS)
    programs = (decoding.begin, decoding.step, readings.advance, readings.advance_in_place,
                decoding._follow)
    sizes = [f._cache_size() for f in programs]
    for wipe in (True, False):
        answers(name, ROWS, wipe)
    assert sizes == [f._cache_size() for f in programs]


@pytest.mark.parametrize("name", [
    "memory and window", pytest.param("memory in all blocks", marks=pytest.mark.slow)])
def test_a_mesh_that_splits_heads_compiles_once_and_reuses_the_state(name, monkeypatch):
    monkeypatch.setattr(readings, "CHUNK", 2)
    model, rows = LanguageModel(CONFIGS[name]), [4, 4]
    mesh = partition.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    programs = (decoding.begin, decoding.step, readings.advance, readings.advance_in_place,
                decoding._follow)
    before = [f._cache_size() for f in programs]
    with jax.set_mesh(mesh):
        assert answers(name, rows) == [naive(name, row, False) for row in rows]
    # Three full segments: two at once, then one.
    sizes = [f._cache_size() - size for f, size in zip(programs, before, strict=True)]
    assert sizes == [1, 1, 1, 2, 1]
    with partition.use(mesh):
        traced = engines.traced(model, abstract_params(model, mesh), 2, 7, mesh)
        sizes = traced["read 2 segments"].lower().compile().memory_analysis()
        state = jax.eval_shape(lambda: init_state(model.config, 2, 7))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert whole / 4 <= sizes.alias_size_in_bytes <= whole / 2


class Endless:
    """So many tokens, made as they are asked for; keeps the most that were asked for at once."""

    def __init__(self, length):
        self.length, self.most = length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, part):
        first, stop, _ = part.indices(self.length)
        self.most = max(self.most, stop - first)
        return np.arange(first, max(first, stop), dtype=np.int32) * 7 % V


def test_a_long_context_is_never_there_as_a_whole(monkeypatch):
    """The host asks for a segment at a time, the devices are handed CHUNK of them at most."""
    name, handed = "memory in all blocks", []

    def advance(model, params, state, tokens_CBT, *rest):
        handed.append(tokens_CBT.shape)
        return state

    monkeypatch.setattr(readings, "advance_in_place", advance)
    engine = Engine(LanguageModel(CONFIGS[name]), variables(name), pad_id=0, stop_ids={NEVER})
    context = Endless(2**16)
    engine.answer([context], 1)
    assert context.most == T
    assert set(handed) == {(readings.CHUNK, 1, T), (1, 1, T)}
    assert sum(shape[0] for shape in handed) == (len(context) - 1) // T
