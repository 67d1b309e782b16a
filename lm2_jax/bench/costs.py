"""`lm2 bench costs`: what the memory costs, compared with the same model without it."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.config import Config, MeshConfig, parse_length, with_vocab_size
from lm2_jax.data.babilong import corpus
from lm2_jax.errors import UserError
from lm2_jax.generation.reading import CHUNK, places_for
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import Segments, read_segments
from lm2_jax.model.state import init_state
from lm2_jax.report import compilation
from lm2_jax.report import costs as report
from lm2_jax.report.costs import Costs, Pair
from lm2_jax.runtime import meshes, paths
from lm2_jax.runtime.console import Console
from lm2_jax.training import optimizer
from lm2_jax.training import state as train_state
from lm2_jax.training.clock import flops_per_token
from lm2_jax.training.step import make_train_step
from lm2_jax.types import Batch, Params, State

Work = tuple[Callable[[], object], int]
"""The function to measure, and the peak bytes of its program."""


def run(config: Config, name: str, lengths: Sequence[str], repeats: int, out: str | Path,
        console: Console | None = None) -> Costs:
    """Measures untrained models on random tokens on one device; prints and writes the table.

    The work is to read a context of each length, one row, segment by segment without logits, and
    one training step of the last stage of the curriculum. The repetitions of the model and of its
    backbone alternate, after one run of each.

    Args:
      name: of the config, for the heading.
      lengths: of the contexts, as "4k".
      repeats: how often each work is measured.
      out: folder of costs.json, costs.md and costs.png.

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
    config = dataclasses.replace(config, mesh=MeshConfig())
    memory = dataclasses.replace(config.model.memory, num_layers=0)
    backbone = dataclasses.replace(config, model=dataclasses.replace(config.model, memory=memory))
    both = Model(config), Model(backbone)
    unembedding = 2 * config.model.embed_dim * config.model.vocab_size
    training = [flops_per_token(one.config.model) for one in both]
    reading = [flops / 3 - unembedding for flops in training]  # it needs no logits
    T = config.model.segment_length
    tokens = {length: math.prod(_chunks(config, count)) * T for length, count in tokens.items()}
    pairs = [_pair(f"read {length}", count, reading, [one.reading(count) for one in both],
                   repeats, console) for length, count in tokens.items()]
    # Training comes last: a step takes the parameters that were read with.
    segments, rows = config.data.curriculum[-1][1], config.batch_sizes()[-1]
    pairs.append(_pair("train step", rows * segments * config.model.segment_length, training,
                       [one.training(segments, rows) for one in both], repeats, console))
    found = Costs(name, jax.devices()[0].device_kind,
                  (both[0].parameters, both[1].parameters), pairs)
    console.print(report.heading(found))
    console.print(report.table(found).terminal())
    for path in report.write(paths.of(out), found):
        console.print(str(path))
    return found


def _pair(what: str, tokens: int, flops: Sequence[float], works: Sequence[Work], repeats: int,
          console: Console) -> Pair:
    """Measures the work of both models alternately."""
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


class Model:
    """An untrained model on one device."""

    def __init__(self, config: Config):
        self.config, self._programs = config, {}
        self.mesh = meshes.for_training(config, jax.devices()[:1], evaluates=False)
        self.model, self.tx = LanguageModel(config.model), optimizer.make(config.train)
        self.state = train_state.create(self.model, self.tx, config.seed, self.mesh)[0]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def reading(self, tokens: int) -> Work:
        """Streams a context of one row through the model, rounded up to whole chunks."""
        count, chunks, T = *_chunks(self.config, tokens), self.config.model.segment_length
        places = min(places_for(count * chunks, 1, T), self.config.model.attention_window)
        tokens_CBT = _random(self.config, count * T).reshape(count, 1, T)

        def first() -> State:
            return init_state(self.config.model, 1, places)

        with jax.set_mesh(self.mesh):
            key = count, places
            if key not in self._programs:
                self._programs[key] = _read.trace(self.model, self.state.params, first(),
                                                  tokens_CBT).lower().compile()
        program = self._programs[key]

        def work() -> None:
            with jax.set_mesh(self.mesh):
                state = first()
                for _ in range(chunks):
                    state, hidden = program(self.state.params, state, tokens_CBT)
                jax.block_until_ready((state, hidden))

        return work, _peak(program)

    def training(self, segments: int, rows: int) -> Work:
        """Takes a training step on a batch of full rows, which changes the parameters."""
        L = segments * self.config.model.segment_length
        drawn = _random(self.config, rows * (L + 1)).reshape(rows, L + 1)
        all_BL = np.ones((rows, L), bool)
        batch = Batch(tokens_BL=drawn[:, :-1], targets_BL=drawn[:, 1:],
                      loss_weight_BL=np.ones((rows, L), np.float32), answer_BL=all_BL,
                      valid_BL=all_BL,
                      reset_BS=np.arange(segments)[None, :].repeat(rows, 0) == 0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            step = make_train_step(self.model, self.tx, self.config.train, self.mesh, shardings)
            program = step.trace(self.state, batch).lower().compile()

        def work() -> None:
            with jax.set_mesh(self.mesh):
                self.state, metrics = program(self.state, batch)
                jax.block_until_ready((self.state, metrics))

        return work, _peak(program)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read(model: LanguageModel, params: Params, state: State, tokens_CBT):
    """The state after C segments, and the sum of each segment's hidden vectors.

    Without the sum the compiler would leave out what no state depends on: the last block, and of a
    backbone that carries no state all of it.
    """
    segments = Segments(tokens_CBT, jnp.ones(tokens_CBT.shape, bool),
                        jnp.zeros(tokens_CBT.shape[:2], bool))
    return read_segments(model, params, state, segments,
                         lambda out, _: jnp.sum(cast(jax.Array, out.hidden)))[:2]


def _chunks(config: Config, tokens: int) -> tuple[int, int]:
    """Segments of a chunk, and how many chunks have at least so many tokens."""
    segments = -(-tokens // config.model.segment_length)
    count = min(segments, CHUNK)
    return count, -(-segments // count)


def _peak(program) -> int:
    return compilation.memory(program.memory_analysis())["peak"]


def _random(config: Config, count: int) -> np.ndarray:
    rng = np.random.default_rng(config.seed)
    return rng.integers(config.model.vocab_size, size=count, dtype=np.int32)
