"""`lm2 bench costs`: what the memory costs over the same model without it."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from lm2_jax.config import Config, MeshConfig, parse_length, with_vocab_size
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.eval import stream
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.report import compilation
from lm2_jax.report import costs as report
from lm2_jax.report.costs import Costs, Pair
from lm2_jax.runtime import meshes
from lm2_jax.runtime.console import Console
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.clock import flops_per_token
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch

Work = tuple[Callable[[], object], int]
"""What to measure, and the peak bytes of its program."""


def run(config: Config, name: str, lengths: Sequence[str], repeats: int, out: str | Path,
        console: Console | None = None) -> Costs:
    """Measures untrained models on random tokens on one device; prints and writes the table.

    The work is to read a context of each length, one row, and one training step of the last stage
    of the curriculum. The model and its backbone take turns; each is run once before that.

    Args:
      name: of the config, for the heading.
      repeats: how often each work is measured.

    Raises:
      UserError: the model has no memory, or an argument cannot be used.
    """
    console = console or Console()
    if not config.model.memory.num_layers:
        raise UserError("model.memory.num_layers is 0; there is no memory whose cost to measure")
    if not lengths or repeats < 1:
        raise UserError(f"--lengths is {','.join(lengths)!r} and --repeats {repeats}; there must "
                        "be a length, as 4k, and 1 repetition at least")
    tokens = {length: parse_length(length) for length in lengths}
    if min(tokens.values()) < 1:
        raise UserError("--lengths has 0k, a context of no tokens; give lengths such as 4k,16k")
    if not config.model.vocab_size:
        words = corpus.make_tokenizer(config.data, config.seed)
        config = with_vocab_size(config, words.vocab_size, corpus.vocab_multiple(config.data))
    config = dataclasses.replace(config, mesh=MeshConfig(),
                                 eval=dataclasses.replace(config.eval, batch_size=1))
    memory = dataclasses.replace(config.model.memory, num_layers=0)
    backbone = dataclasses.replace(
        config, model=dataclasses.replace(config.model, memory=memory),
        train=dataclasses.replace(config.train, write_cost=0.0))
    both = config, backbone
    unembedding = 2 * config.model.embed_dim * config.model.vocab_size
    training = [flops_per_token(one.model) for one in both]
    reading = [flops / 3 - unembedding for flops in training]  # it needs no logits
    pairs = [_pair(f"read {length}", count, reading, [_reading(one, count) for one in both],
                   repeats, console) for length, count in tokens.items()]
    segments, rows = config.data.curriculum[-1][1], config.batch_sizes()[-1]
    pairs.append(_pair("train step", rows * segments * config.model.segment_length, training,
                       [_training(one, segments, rows) for one in both], repeats, console))
    own, without = (_size(one) for one in both)
    found = Costs(name, jax.devices()[0].device_kind, (own, without), pairs)
    console.print(report.heading(found))
    console.print(report.table(found).terminal())
    for path in report.write(Path(out), found):
        console.print(str(path))
    return found


def _pair(what: str, tokens: int, flops: Sequence[float], works: Sequence[Work], repeats: int,
          console: Console) -> Pair:
    """Measures the work of both models in turns."""
    seconds: tuple[list[float], list[float]] = [], []
    for work, _ in works:
        work()  # compiles
    for repeat in range(repeats):
        for model in (0, 1) if repeat % 2 == 0 else (1, 0):
            begun = time.perf_counter()
            works[model][0]()
            seconds[model].append(time.perf_counter() - begun)
    console.print(f"{what}: measured")
    return Pair(what, tokens, (flops[0], flops[1]), seconds, (works[0][1], works[1][1]))


def _reading(config: Config, tokens: int) -> Work:
    """Streams a context of one row through the model, up to the first token of the answer."""
    mesh = meshes.for_evaluation(config, jax.devices()[:1])
    model, T = LanguageModel(config.model), config.model.segment_length
    tx = optimizer.make(config.train)
    params = train_state.create(model, tx, config.seed, mesh)[0].params
    streamer = stream.Streamer(model, params, pad_id=0, stop_ids=())
    prompt = _random(config, tokens)
    places = min(stream.places_for((tokens - 1) // T, 1, T), config.model.attention_window)
    with jax.set_mesh(mesh):
        programs = stream.traced(model, abstract_params(model, mesh), 1, places, mesh)
        peak = max(_peak(traced.lower().compile()) for traced in programs.values())

    def work() -> None:
        with jax.set_mesh(mesh):
            streamer.answer([prompt], 1)

    return work, peak


def _training(config: Config, segments: int, rows: int) -> Work:
    """Takes a training step on a batch of full rows."""
    mesh = meshes.for_training(config, jax.devices()[:1], evaluates=False)
    model, tx = LanguageModel(config.model), optimizer.make(config.train)
    state = train_state.create(model, tx, config.seed, mesh)[0]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state.abstract(model, tx, mesh))
    L = segments * config.model.segment_length
    drawn = _random(config, rows * (L + 1)).reshape(rows, L + 1)
    all_BL = np.ones((rows, L), bool)
    batch = Batch(tokens_BL=drawn[:, :-1], targets_BL=drawn[:, 1:],
                  loss_weight_BL=np.ones((rows, L), np.float32), answer_BL=all_BL, valid_BL=all_BL,
                  reset_BS=np.arange(segments)[None, :].repeat(rows, 0) == 0)
    with jax.set_mesh(mesh):
        step = make_train_step(model, tx, config.train, mesh, shardings)
        program = step.trace(state, batch).lower().compile()

    def work() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = program(state, batch)
            jax.block_until_ready((state, metrics))

    return work, _peak(program)


def _peak(program) -> int:
    return compilation.memory(program.memory_analysis())["peak"]


def _random(config: Config, count: int) -> np.ndarray:
    rng = np.random.default_rng(config.seed)
    return rng.integers(config.model.vocab_size, size=count, dtype=np.int32)


def _size(config: Config) -> int:
    mesh = meshes.for_evaluation(config, jax.devices()[:1])
    return sum(leaf.size for leaf in jax.tree.leaves(
        abstract_params(LanguageModel(config.model), mesh)))
