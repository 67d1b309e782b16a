"""`lm2 bench eval`: rate and resident memory of streaming evaluation over the context length."""

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from rich import box
from rich.table import Table

from lm2_jax.config import Config, MeshConfig, with_vocab_size
from lm2_jax.data.babilong import corpus, prompting
from lm2_jax.errors import UserError
from lm2_jax.eval.babilong import cells
from lm2_jax.generation.engine import Engine
from lm2_jax.generation.reading import CHUNK
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import meshes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar
from lm2_jax.training import state as train_state

_STATUS = Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Reading:
    """The measurement of one sample.

    Attributes:
      length: its name, as "64k".
      tokens: of the prompt.
      seconds: to read the prompt and generate the answer.
      resident: resident memory of this process afterwards, in MB; None if the system does not
        report it.
    """

    length: str
    tokens: int
    seconds: float
    resident: float | None

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def run(config: Config, lengths: Sequence[str], console: Console | None = None) -> list[Reading]:
    """Evaluates an untrained model on one sample of each length, one row on one device.

    A sample as long as the first one is evaluated before the measurement, so that everything is
    compiled and allocated. Longer samples are compiled again only if attention looks back further.

    Raises:
      UserError: if `lengths` is empty, or a length is invalid or too short for a sample.
    """
    if not lengths:
        raise UserError("--lengths names no length; it must be as 64k,1M")
    console = console or Console()
    e = dataclasses.replace(config.eval, lengths=tuple(lengths), max_samples=(), batch_size=1,
                            retrieve=0,
                            tasks=(config.eval.tasks or config.data.tasks)[:1], samples="",
                            indices="")
    words = corpus.make_tokenizer(config.data, config.seed)
    config = with_vocab_size(dataclasses.replace(config, eval=e, mesh=MeshConfig()),
                             words.vocab_size)
    drawn_from = corpus.held_out(config, words)
    drawn = cells(config, drawn_from, prompting.make(e, drawn_from.encoder), 1)
    prompts = {length: prompt.tokens for (_, length), (prompt,) in drawn.items()}
    mesh, model = meshes.for_evaluation(config, jax.devices()[:1]), LanguageModel(config.model)
    params = train_state.create(model, optax.identity(), config.seed, mesh)[0].params
    engine = Engine(model, params, pad_id=words.pad_id, stop_ids=words.stop_ids)

    least = (CHUNK + 2) * config.model.segment_length
    first = max(prompts.values(), key=len)[:max(len(prompts[lengths[0]]), least)]
    total = len(first) + sum(map(len, prompts.values()))
    bar = Bar("bench eval", total, console=console, unit="tokens")
    read, readings = 0, []

    def answer(tokens, text: str) -> None:
        def progress(count: int) -> None:
            nonlocal read
            read += count
            bar.update(read, text)

        engine.answer([tokens], e.max_new_tokens, progress=progress)

    with jax.set_mesh(mesh):
        answer(first, "warm-up")
        for length, tokens in prompts.items():
            begun = time.perf_counter()
            answer(tokens, length)
            readings.append(Reading(length, len(tokens), time.perf_counter() - begun,
                                    _resident()))
    bar.close()
    (task, _), *_ = drawn
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    console.print(f"{task}, one row on one device, {size:,} untrained parameters")
    console.print(_table(readings))
    return readings


def _resident() -> float | None:
    if not _STATUS.exists():
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 / 1e6 if found else None


def _table(readings: list[Reading]) -> Table:
    table = Table(title="Reading longer and longer contexts", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False)
    for name in ("length", "tokens", "seconds", "tokens/s", "to the\nfirst", "MB resident\nafter",
                 "to the\nfirst"):
        table.add_column(name, justify="right")
    for one in readings:
        now, first = one.resident, readings[0].resident
        table.add_row(one.length, f"{one.tokens:,}", f"{one.seconds:.2f}", f"{one.rate:,.0f}",
                      f"{one.rate / readings[0].rate:.3f}",
                      "unknown" if now is None else f"{now:,.1f}",
                      f"{now / first:.3f}" if now and first else "")
    return table
