"""BABILong: its prompts, and their answers scored by task, context length and memory mode."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm2_jax.config import Config, EvalConfig, parse_length
from lm2_jax.data.babilong import samples
from lm2_jax.data.babilong.corpus import Corpus
from lm2_jax.data.babilong.prompting import Prompting
from lm2_jax.data.babilong.samples import Cells, Prompt
from lm2_jax.data.text.pieces import Spool
from lm2_jax.errors import UserError
from lm2_jax.eval import metrics, rag
from lm2_jax.eval.evaluator import Progress
from lm2_jax.eval.journal import Journal
from lm2_jax.eval.results import Row
from lm2_jax.generation.engine import Engine
from lm2_jax.runtime import paths


class Prediction(NamedTuple):
    """A line of the benchmark's files of predictions."""

    target: str
    output: str
    question: str


def asks_whole_file(config: EvalConfig) -> bool:
    """Whether all samples of a file are evaluated, regardless of tasks, lengths and number."""
    return bool(config.samples) and not paths.of(config.samples).is_dir()


def empty_key(config: EvalConfig) -> str:
    """The key that is empty, so that there is nothing to evaluate; "" if there is something."""
    if not config.memory:
        return "eval.memory"
    return "" if config.lengths or asks_whole_file(config) else "eval.lengths"


def cells(config: Config, corpus: Corpus, prompting: Prompting, num_samples: int) -> Cells:
    """The prompts of each (task, length): from a sample file, the published data set, or drawn.

    With `eval.retrieve` their contexts are the retrieved sentences.
    """
    found, e = _cells(config, corpus, prompting, num_samples), config.eval
    if not e.retrieve:
        return found
    return {key: [rag.retrieve(p, np.asarray(prompting.encoder.text(p.question)), e.retrieve,
                               e.retrieve_order, prompting.opening) for p in cell]
            for key, cell in found.items()}


def _cells(config: Config, corpus: Corpus, prompting: Prompting, num_samples: int) -> Cells:
    e = config.eval
    most = dict(itertools.zip_longest(e.lengths, e.max_samples, fillvalue=num_samples))
    counts = {length: min(num_samples, count) for length, count in most.items()}
    if asks_whole_file(e):
        found: Cells = {}
        for prompt in samples.read_file(e.samples, prompting):
            found.setdefault((prompt.task, prompt.length), []).append(prompt)
        return found
    if e.samples:
        spool = Spool()
        return {(task, length): samples.read_cell(e.samples, task, length, counts[length],
                                                  prompting, spool)
                for task in e.tasks or config.data.tasks for length in e.lengths}
    return {(source.task, length): [
        samples.draw(source, length, index, e, prompting, corpus.prose,
                     config.model.segment_length) for index in range(counts[length])]
        for source in corpus.sources for length in e.lengths}


def in_modes(prompts: Cells, modes: Sequence[str], config: EvalConfig
             ) -> Iterator[tuple[tuple[str, str, str], list[Prompt]]]:
    """Yields (task, length, mode) and the prompts of every cell that is evaluated."""
    longest = parse_length(config.reset_up_to) if config.reset_up_to else math.inf
    for ((task, length), cell), mode in itertools.product(prompts.items(), modes):
        try:
            tokens = parse_length(length)
        except UserError:  # a sample file can name a length in any way
            tokens = max(len(p.tokens) for p in cell)
        if mode != "reset" or tokens <= longest:
            yield (task, length, mode), cell


def tokens_to_read(prompts: Cells, modes: Sequence[str], config: EvalConfig, journal: Journal
                   ) -> tuple[int, int]:
    """Tokens of all prompts in all modes, and those of the prompts in the journal."""
    sizes = {key: [len(p.tokens) for p in cell] for key, cell in in_modes(prompts, modes, config)}
    return (sum(map(sum, sizes.values())),
            sum(sum(size[:len(journal.answers(key))]) for key, size in sizes.items()))


def evaluate(engine: Engine, prompts: Cells, config: EvalConfig,
             decode: Callable[[Iterable[int]], str], modes: Sequence[str], *,
             progress: Progress | None = None, journal: Journal | None = None,
             between: Callable[[], None] | None = None) -> Iterator[tuple[Row, list[Prediction]]]:
    """Answers every prompt; yields a row and its predictions for each task, length and mode.

    Args:
      decode: ids to text.
      modes: of "carried" and "reset" (the memory is reset at every segment).
      progress: called with the tokens read since the last call and the cell's rate so far.
      journal: has the answers of an interrupted evaluation; new ones are added.
      between: called after every batch, by all processes; if it raises, the evaluation ends.
    """
    B, T = config.batch_size, engine.model.config.segment_length
    for key, cell in in_modes(prompts, modes, config):
        task, length, mode = key
        outputs = journal.answers(key) if journal else []
        right: list[bool] = []

        def read(tokens: int, key=key, cell=cell, outputs=outputs, right=right) -> None:
            right += [metrics.exact_match(p.target, output) for p, output in
                      zip(cell[len(right):], outputs[len(right):], strict=False)]
            if progress:
                rate = f": {np.mean(right):.3f} of {len(right)}" if right else ""
                progress(tokens, " ".join(key) + rate)

        read(0)
        while len(outputs) < len(cell):
            batch = cell[len(outputs):len(outputs) + B]
            answers = engine.answer([p.tokens for p in batch], config.max_new_tokens,
                                      wipe=mode == "reset", batch_size=B, progress=read)
            said = [decode(ids).strip() for ids in answers]
            if journal:
                journal.add(key, said)
            outputs += said
            read(0)
            if between:
                between()
        predictions = [Prediction(p.target, output, p.question)
                       for p, output in zip(cell, outputs, strict=True)]
        yield _row(task, length, mode, cell, predictions, T), predictions


def _row(task: str, length: str, mode: str, cell: list[Prompt], predictions: list[Prediction],
         segment_length: int) -> Row:
    tokens = np.array([p.whole or len(p.tokens) for p in cell])
    known = task in metrics.LABELS  # other tasks have no benchmark accuracy
    segments = np.ceil(np.array([len(p.tokens) for p in cell]) / segment_length)
    return Row(
        task=task, length=length, tokens=float(tokens.mean()), segments=float(segments.mean()),
        memory=mode, n=len(cell),
        exact_match=float(np.mean([metrics.exact_match(p.target, p.output)
                                   for p in predictions])),
        accuracy=float(np.mean([metrics.babilong_correct(task, p.target, p.output, p.question)
                                for p in predictions])) if known else None,
        constant_answer=metrics.constant_answer([p.target for p in cell])[1],
        unscorable=sum(not metrics.scorable(task, p.target, p.question) for p in cell)
        if known else 0)
